"""Images that look alike: what is noticed, and what is not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qmu_edge.data.alike import SIDE, _means, look_alike, thumbnails

Pixels = NDArray[np.uint8]


def pictures(n: int, size: int = 32, channels: int = 3) -> Pixels:
    """Soft random pictures (n, c, h, w): as of photographs, more happens in the large than in the small."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n, channels, 6, 6)).astype(np.uint8)
    shown = [
        [np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in p]
        for p in coarse
    ]
    return np.array(shown, np.uint8)


def jpeg(images: Pixels) -> Pixels:
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=75)
        found.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return np.array(found, np.uint8)


def one_pixel(images: Pixels) -> Pixels:
    changed = images.copy()
    changed[:, :, 3, 3] ^= 255
    return changed


def smaller(images: Pixels) -> Pixels:
    """At three quarters of the size, and back."""
    small = [[Image.fromarray(c).resize((24, 24)).resize((32, 32)) for c in image] for image in images]
    return np.array([[np.asarray(c) for c in image] for image in small], np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "the same": lambda x: x, "compressed": jpeg, "one pixel": one_pixel, "scaled": smaller,
    "mirrored": lambda x: x[:, :, :, ::-1], "brighter": lambda x: np.minimum(x, 254) + np.uint8(1),
    "grey": lambda x: x.mean(axis=1, keepdims=True).round().astype(np.uint8).repeat(3, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_picture_looks_like_the_one_it_was_and_no_other(name: str) -> None:
    images = pictures(20)
    everything = np.concatenate([images, CHANGES[name](images)])
    some, others = np.arange(10), np.arange(10, 40)
    assert np.flatnonzero(look_alike(everything, some, others)).tolist() == [*range(10, 20)]


def test_a_thumbnail_is_the_mean_of_what_it_covers() -> None:
    images = pictures(3, size=12)
    shown = thumbnails(images, np.array([2, 0]))
    for row, image in zip(shown, (images[2], images[0]), strict=True):
        fine = image.mean(axis=0).repeat(2, 0).repeat(2, 1)  # 24 x 24: eighths of three
        small = np.array(
            [[fine[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean() for j in range(SIDE)] for i in range(SIDE)]
        )
        small -= small.mean()
        assert np.allclose(row, (small / np.linalg.norm(small)).ravel(), atol=1e-5)
    assert all(np.allclose(_means(size).sum(axis=1), 1) for size in (1, 3, 8, 28, 225))


def test_pictures_of_one_value_look_like_none_and_no_others_are_no_error() -> None:
    images = np.full((4, 1, 8, 8), 7, np.uint8)
    assert not look_alike(images, np.array([0]), np.array([1, 2, 3])).any()
    assert len(look_alike(images, np.array([0]), np.array([], np.int64))) == 0
    assert not look_alike(images, np.array([], np.int64), np.array([1])).any()
