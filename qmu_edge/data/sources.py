"""Where images come from: scikit-learn's digits, torchvision's sets, a folder of images.

Every source becomes the same thing: uint8 images (n, c, h, w), labels, sample ids, class names, and the
test split where the source has one. Image files are hostile input: one that does not decode, or is larger
than 40 megapixels, is an error that names it.

The digits have no people behind their file: for demonstrations ten made-up writers own blocks of
consecutive images, `writer-0` the first tenth and so on.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

import numpy as np
from PIL import Image

from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.io.progress import Progress
from qmu_edge.machine.processors import processors
from qmu_edge.recipe import DataRecipe

MAX_PIXELS: Final = 40_000_000
SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
)
# Never "all that Pillow knows": an EPS file under the name of a PNG would run Ghostscript.
FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
WRITERS: Final = 10


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset as it comes from its source.

    Attributes:
        images: uint8 (n, c, h, w).
        labels: int64 (n,).
        ids: Sample ids, unique.
        given: "train", "test", or "" where the source has no split, (n,).
        class_names: k names, in label order.
        subjects: The subject of each sample (n), "" where it has none; empty when the source does not say.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    given: np.ndarray
    class_names: tuple[str, ...]
    subjects: tuple[str, ...] = ()


def load(recipe: DataRecipe, progress: Progress) -> Source:
    """Read all images of the recipe's source.

    Raises:
        ConfigError: The source is missing, empty or unreadable.
    """
    if recipe.source == "digits":
        return _digits(recipe.size)
    if recipe.path is None:
        raise ConfigError(f"data.path is missing: {recipe.source} needs a folder")
    if recipe.source == "folder":
        return _folder(Path(recipe.path), recipe.size, progress)
    return _torchvision(recipe)


def _digits(size: int) -> Source:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    n = len(digits.target)
    small = (digits.images * (255.0 / 16.0)).round().astype(np.uint8)
    images = np.stack([_resize(Image.fromarray(image), size) for image in small])
    return Source(
        images[:, None],
        digits.target.astype(np.int64),
        tuple(f"digits/{i:04d}" for i in range(n)),
        np.full(n, ""),
        tuple(str(d) for d in range(10)),
        tuple(f"writer-{i * WRITERS // n}" for i in range(n)),
    )


def _torchvision(recipe: DataRecipe) -> Source:
    try:
        from torchvision import datasets
    except ModuleNotFoundError:
        raise ConfigError(f'{recipe.source}: needs torchvision: pip install "qmu-edge[datasets]"') from None

    made: dict[str, Callable[[str], Any]] = {
        "cifar10": lambda split: datasets.CIFAR10(recipe.path, train=split == "train", download=True),
        "cifar100": lambda split: datasets.CIFAR100(recipe.path, train=split == "train", download=True),
        "svhn": lambda split: datasets.SVHN(recipe.path, split=split, download=True),
        "fashion_mnist": lambda split: datasets.FashionMNIST(
            recipe.path, train=split == "train", download=True
        ),
    }
    try:
        sets = {split: made[recipe.source](split) for split in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{recipe.source}: cannot be read from {recipe.path} or downloaded: {error}"
        ) from None
    return _joined(recipe, sets)


def _joined(recipe: DataRecipe, sets: dict[str, Any]) -> Source:
    images, labels, ids, given = [], [], [], []
    for split, dataset in sets.items():
        array = np.asarray(dataset.data)
        if recipe.source == "svhn":
            labels += [int(v) for v in dataset.labels]
        else:
            array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
            labels += [int(v) for v in dataset.targets]
        images.append(_resized(array, recipe.size))
        ids += [f"{split}/{i:05d}" for i in range(len(array))]
        given += [split] * len(array)
    classes = getattr(sets["train"], "classes", None) or [str(d) for d in range(10)]
    return Source(
        np.ascontiguousarray(np.concatenate(images)),
        np.array(labels, np.int64),
        tuple(ids),
        np.array(given),
        tuple(str(c) for c in classes),
    )


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if size in (0, images.shape[-1]):
        return images
    resize = [[_resize(Image.fromarray(channel), size) for channel in image] for image in images]
    return np.array(resize, np.uint8)


def _resize(image: Image.Image, size: int) -> np.ndarray:
    if size and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8)


def _folder(root: Path, size: int, progress: Progress) -> Source:
    files = list(_files(root))
    if not files:
        raise ConfigError(f"{root}: no images in train/<class>/ and test/<class>/")
    folders = sorted({name for _, name, _ in files})
    number = {name: i for i, name in enumerate(folders)}
    first = open_image(files[0][2], None, size)
    images = np.empty((len(files), *first.shape), np.uint8)
    progress.start("decoding", len(files))

    def decode(i: int) -> None:
        images[i] = open_image(files[i][2], first.shape, size)

    with ThreadPoolExecutor(processors().threads) as pool:
        for _ in pool.map(decode, range(len(files))):
            progress.advance(1)
    progress.finish()
    return Source(
        images,
        np.array([number[name] for _, name, _ in files], np.int64),
        tuple(normalize("NFC", path.relative_to(root).as_posix()) for _, _, path in files),
        np.array([split for split, _, _ in files]),
        tuple(folders),
    )


def _files(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Split, class and path of each image, sorted; links only where they stay in the folder."""
    inside = root.resolve()
    for split in ("train", "test"):
        for folder in sorted((root / split).glob("*")):
            if folder.is_dir():
                name = normalize("NFC", folder.name)  # file systems differ in how they store one name
                for path in sorted(folder.iterdir()):
                    if path.suffix.lower() in SUFFIXES:
                        linked = path.is_symlink() or folder.is_symlink() or folder.parent.is_symlink()
                        if linked and not path.resolve().is_relative_to(inside):
                            raise ConfigError(f"{path}: a link that leads out of {root}")
                        yield split, name, path


def open_image(path: Path, shape: tuple[int, ...] | None, size: int) -> np.ndarray:
    """Decode one file to (c, h, w); `shape` is what the first image had."""
    if not path.is_file():
        raise ConfigError(f"{path}: not a readable image: not a regular file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ConfigError(f"{path}: {image.width}x{image.height} pixels, at most {MAX_PIXELS}")
            grey = shape[0] == 1 if shape else image.mode in ("1", "L", "I;16")
            array = _resize(image.convert("L" if grey else "RGB"), size)
    except QmuEdgeError:
        raise
    except Exception as error:  # decoders of seven formats raise what they like on broken bytes
        raise ConfigError(f"{path}: not a readable image: {str(error)[:200]}") from None
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if shape is not None and array.shape != shape:
        raise ConfigError(
            f"{path}: {array.shape[1]}x{array.shape[2]} pixels, the first image has "
            f"{shape[1]}x{shape[2]}; set data.size to resize all"
        )
    return array
