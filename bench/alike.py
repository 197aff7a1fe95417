"""How often are two images taken for alike that are two pictures, and how often is the same one found again?

Images of a folder, or the digits, against all the others: the share of which another one looks like, and the
share of pairs. Then each image, changed in one way, against itself. Of equal pixels one is left.

    python bench/alike.py --data cifar10=cifar10/train --data faces=faces/ [--images 1000]
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shared.record import write
from sklearn.datasets import load_digits

from qmu_edge.data.alike import ALIKE, look_alike, thumbnails

Images = NDArray[np.uint8]


def images_of(folder: Path) -> Images:
    """All images below a folder, uint8 (n, 3, h, w)."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg"))
    return np.stack([np.asarray(Image.open(p).convert("RGB")).transpose(2, 0, 1) for p in paths])


def digits() -> Images:
    """The digits of scikit-learn, uint8 (n, 1, 8, 8)."""
    return np.asarray(load_digits().images * 255 / 16, np.uint8)[:, None]


def pictures(change: Callable[[Image.Image], Image.Image]) -> Callable[[Images], Images]:
    """A change of one picture, as a change of images."""

    def changed(images: Images) -> Images:
        found = []
        for image in images:
            picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            pixels = np.asarray(change(picture))
            found.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        return np.stack(found)

    return changed


def jpeg(picture: Image.Image) -> Image.Image:
    """The picture, compressed again."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75)
    return Image.open(file)


def smaller(picture: Image.Image) -> Image.Image:
    """The picture at three quarters of its size, and back."""
    w, h = picture.size
    return picture.resize((w * 3 // 4, h * 3 // 4), Image.Resampling.BILINEAR).resize((w, h))


def cropped(picture: Image.Image) -> Image.Image:
    """The picture without a sixteenth of each side, at its size."""
    w, h = picture.size
    left, top = max(1, w // 16), max(1, h // 16)
    return picture.crop((left, top, w - left, h - top)).resize((w, h), Image.Resampling.BILINEAR)


def one_pixel(images: Images) -> Images:
    """The middle pixel inverted."""
    changed = images.copy()
    middle = tuple(size // 2 for size in images.shape[2:])
    changed[:, :, middle[0], middle[1]] ^= 255
    return changed


CHANGES: Mapping[str, Callable[[Images], Images]] = {
    "JPEG 75": pictures(jpeg), "one pixel": one_pixel, "mirrored": lambda x: x[:, :, :, ::-1],
    "3/4 size": pictures(smaller), "brightness + 1": lambda x: np.minimum(x, 254) + np.uint8(1),
    "cropped 1/16": pictures(cropped),
}  # fmt: skip


def measured(images: Images, wanted: int) -> dict[str, Any]:
    """What is found of `images`, and how long it takes to look."""
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    images = images[np.sort(first)]
    everything = np.arange(len(images))
    some = np.random.default_rng(0).permutation(len(images))[:wanted]
    start = time.perf_counter()
    look_alike(images, some, np.setdiff1d(everything, some))
    seconds = time.perf_counter() - start
    shown = thumbnails(images, everything)
    mirrored = shown.reshape(-1, 8, 8)[:, :, ::-1].reshape(shown.shape)
    alike = np.maximum(shown[some] @ shown.T, shown[some] @ mirrored.T) >= ALIKE
    alike[np.arange(len(some)), some] = False
    found = {}
    for name, change in CHANGES.items():
        pairs = np.concatenate([images[some], change(images[some])])
        n = len(some)
        found[name] = float(
            np.mean([look_alike(pairs, np.array([i]), np.array([n + i]))[0] for i in range(n)])
        )
    return {
        "images": len(images), "asked": len(some), "of_images": float(alike.any(axis=1).mean()),
        "of_pairs": float(alike.mean()), "found": found, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Measure; write bench/results/alike.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    results = {"digits": measured(digits(), options.images)}
    for text in options.data:
        name, _, folder = text.partition("=")
        results[name] = measured(images_of(Path(folder)), options.images)
    print(write("alike", {"images": options.images}, results), results)


if __name__ == "__main__":
    main()
