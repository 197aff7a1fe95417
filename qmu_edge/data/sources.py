"""Where images come from: scikit-learn's digits, torchvision's sets, a folder of images.

Every source becomes the same thing: uint8 images (n, c, h, w), labels, sample ids, class names, and the
test split where the source has one. Image files are hostile input: see `qmu_edge.data.decoding`.

The digits have no people behind their file: for demonstrations ten made-up writers own blocks of
consecutive images, `writer-0` the first tenth and so on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.data.decoding import fitted
from qmu_edge.data.folder import folder
from qmu_edge.data.index import Form
from qmu_edge.data.pictures import Decoder, Source
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe

WRITERS: Final = 10


def load(
    recipe: DataRecipe, progress: Progress, form: Form | None = None, cache: Path | None = None
) -> Source:
    """Read all images of the recipe's source.

    Args:
        recipe: Where they are, and to which size they are made.
        progress: Where they are counted.
        form: What they were made to be in another project, instead.
        cache: A .npy file to write and map, where the source has encoded images; None for memory.

    Raises:
        ConfigError: The source is missing, empty or unreadable, or larger than the recipe allows.
    """
    if form is not None:
        recipe = recipe.model_copy(update={"size": form.shape[-1]})
    if recipe.source == "digits":
        return _digits(recipe.size)
    if recipe.path is None:
        raise ConfigError(f"data.path is missing: {recipe.source} needs a folder")
    decoder = Decoder(recipe.size, progress, form, cache, recipe.disk_gb * 2**30)
    if recipe.source == "folder":
        return decoder.source(*folder(Path(recipe.path)))
    return _torchvision(recipe)


def _digits(size: int) -> Source:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    n = len(digits.target)
    small = (digits.images * (255.0 / 16.0)).round().astype(np.uint8)
    return Source(
        _resized(small[:, None], size),
        digits.target.astype(np.int64),
        tuple(f"digits/{i:04d}" for i in range(n)),
        np.full(n, ""),
        tuple(str(d) for d in range(10)),
        tuple((f"writer-{i * WRITERS // n}",) for i in range(n)),
    )


def _torchvision(recipe: DataRecipe) -> Source:
    try:
        from torchvision import datasets
    except ModuleNotFoundError:
        raise ConfigError(f'{recipe.source}: needs torchvision, the extra "datasets" of qmu-edge') from None

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
    return np.stack([fitted(image, (images.shape[1], size, size)) for image in images])
