"""Where images come from: scikit-learn's digits, torchvision's sets, a folder of images.

Every source becomes the same thing: uint8 images (n, c, h, w), labels, sample ids, class names, and the
test split where the source has one. Image files are hostile input: see `qmu_edge.data.decoding`.

The digits have no people behind their file: for demonstrations ten made-up writers own blocks of
consecutive images, `writer-0` the first tenth and so on.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

import numpy as np

from qmu_edge.data.decoding import (
    DECODING,
    GREY,
    Decoded,
    decoded,
    decoded_first,
    fitted,
    mode_and_size,
)
from qmu_edge.data.folder import listing
from qmu_edge.data.index import Form
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.machine.processors import processors
from qmu_edge.recipe import DataRecipe

WRITERS: Final = 10
_MOST_KINDS: Final = 10


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
        read: What was read of a folder, how it was decoded, and what was left out; empty for other sources.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    given: np.ndarray
    class_names: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    read: Mapping[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """What the images were made to be, where nothing else was asked for."""
        channels, height, width = self.images.shape[1:]
        return Form(DECODING, (channels, height, width))


def load(recipe: DataRecipe, progress: Progress, form: Form | None = None) -> Source:
    """Read all images of the recipe's source.

    Args:
        recipe: Where they are, and to which size they are made.
        progress: Where they are counted.
        form: What they were made to be in another project, instead.

    Raises:
        ConfigError: The source is missing, empty or unreadable.
    """
    if form is not None:
        recipe = recipe.model_copy(update={"size": form.shape[-1]})
    if recipe.source == "digits":
        return _digits(recipe.size)
    if recipe.path is None:
        raise ConfigError(f"data.path is missing: {recipe.source} needs a folder")
    if recipe.source == "folder":
        return _folder(Path(recipe.path), recipe.size, progress, form)
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
        tuple(f"writer-{i * WRITERS // n}" for i in range(n)),
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


def _folder(root: Path, size: int, progress: Progress, form: Form | None) -> Source:
    found = listing(root)
    with ThreadPoolExecutor(processors().threads) as pool:
        kinds = list(pool.map(lambda file: mode_and_size(file[2]), found.files))
        strict = form is None and not size
        made = form or _form(found.files[0][2], {mode for mode, _, _ in kinds}, size)
        images, notes = np.empty((len(kinds), *made.shape), np.uint8), Counter[str]()
        progress.start("decoding", len(kinds))

        def decode(i: int) -> tuple[str, ...]:
            one = _one(found.files[i][2], made, strict)
            images[i] = one.pixels
            return one.notes

        for said in pool.map(decode, range(len(kinds))):
            notes.update(said)
            progress.advance(1)
    progress.finish()
    folders = sorted({name for _, name, _ in found.files})
    number = {name: i for i, name in enumerate(folders)}
    return Source(
        images,
        np.array([number[name] for _, name, _ in found.files], np.int64),
        tuple(normalize("NFC", path.relative_to(root).as_posix()) for _, _, path in found.files),
        np.array([split for split, _, _ in found.files]),
        tuple(folders),
        read={**_kinds(kinds, made), "decoded": dict(sorted(notes.items())), "left_out": found.to_json()},
    )


def _form(first: Path, modes: set[str], size: int) -> Form:
    """Colour where any file has colour, and the size of the first one where none is asked for."""
    channels = 1 if modes <= GREY else 3
    height, width = (size, size) if size else decoded(first).pixels.shape[1:]
    return Form(DECODING, (channels, height, width))


def _one(path: Path, form: Form, strict: bool) -> Decoded:
    grey = form.shape[0] == 1
    found = decoded(path) if form.decoding == DECODING else decoded_first(path, grey=grey)
    if strict and found.pixels.shape[1:] != form.shape[1:]:
        sizes = [f"{height}x{width}" for _, height, width in (found.pixels.shape, form.shape)]
        raise ConfigError(
            f"{path}: {sizes[0]} pixels, the first image has {sizes[1]}; set data.size to resize all"
        )
    return Decoded(fitted(found.pixels, form.shape), found.notes)


def _kinds(kinds: Sequence[tuple[str, int, int]], form: Form) -> dict[str, Any]:
    """How many files there are of each mode and size, the most frequent first."""
    by_kind = Counter(f"{mode} {width}x{height}" for mode, width, height in kinds)
    shown = dict(by_kind.most_common(_MOST_KINDS))
    more = {"others": len(kinds) - sum(shown.values())} if len(by_kind) > len(shown) else {}
    made = "x".join(map(str, form.shape))
    return {
        "files": len(kinds),
        "modes_and_sizes": shown | more,
        "made_to": f"{made} (channels, height, width)",
    }
