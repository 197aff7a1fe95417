"""Where images come from: named sets, and folders, tables, archives and objects as people have them.

Every source becomes the same thing: uint8 images (n, c, h, w), labels, sample ids, class names, and
splits and people where the source has them. Image files are hostile input: see `qmu_edge.data.decoding`.

The digits have no people behind their file: for demonstrations ten made-up writers own blocks of
consecutive images, `writer-0` the first tenth and so on.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.data.arrays import archive
from qmu_edge.data.decoding import fitted
from qmu_edge.data.folder import SPLITS, folder, is_packed
from qmu_edge.data.index import Form
from qmu_edge.data.listed import listed
from qmu_edge.data.objects import ImageDataset, Maker, given
from qmu_edge.data.parquet import tables
from qmu_edge.data.pictures import Decoder, Source, read_files
from qmu_edge.data.tars import archives
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.plugins.registry import PREFIX, called, name_of
from qmu_edge.recipe import SOURCES, DataRecipe

WRITERS: Final = 10
_BY_SUFFIX: Final = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "parquet", ".tar": "tar", ".npz": "arrays",
}  # fmt: skip
_FILES: Final = {"folder": folder, "csv": listed, "parquet": tables, "tar": archives}


def source_of(dataset: str) -> tuple[str, str | None]:
    """The source that a name or a path on the command line means, and its path.

    Raises:
        ConfigError: It is none.
    """
    path = Path(dataset)
    if dataset in SOURCES or dataset.startswith(("torchvision:", PREFIX)):
        return dataset, None
    if path.is_dir():
        return _kind_of_folder(path), str(path.resolve())
    if path.is_file() and (source := _BY_SUFFIX.get(path.suffix.lower())):
        return source, str(path.resolve())
    if is_packed(path):
        raise ConfigError(f"dataset {dataset!r}: packed: unpack it, and give what it holds")
    suffixes = ", ".join(_BY_SUFFIX)
    raise ConfigError(
        f"dataset {dataset!r}: no such folder, no file of {suffixes}, and not one of {', '.join(SOURCES)}, "
        f"torchvision:NAME or {PREFIX}NAME"
    )


def _kind_of_folder(path: Path) -> str:
    """Classes below a split are images; else tables, else archives, wherever they lie."""
    if any(inner.is_dir() for split in SPLITS for inner in _inside(path / split)):
        return "folder"
    suffixes = {found.suffix for found in path.rglob("*")}
    if suffixes & {".parquet", ".arrow"}:
        return "parquet"
    return "tar" if ".tar" in suffixes else "folder"


def _inside(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def load(
    recipe: DataRecipe, progress: Progress, form: Form | None = None, cache: Path | None = None,
    objects: Mapping[str, ImageDataset] | None = None,
) -> Source:  # fmt: skip
    """Read all images of the recipe's source.

    Args:
        recipe: Where they are, and to which size they are made.
        progress: Where they are counted.
        form: What they were made to be in another project, instead.
        cache: A .npy file to write and map, where the source has encoded images; None for memory.
        objects: The datasets, by split, of the source "object".

    Raises:
        ConfigError: The source is missing, empty or unreadable, or larger than the recipe allows.
    """
    if form is not None:
        recipe = recipe.model_copy(update={"size": 0, "fit": form.fit})
    decoder = Decoder(recipe.size, progress, recipe.fit, form, cache, recipe.disk_gb * 2**30)
    if recipe.source == "object":
        if objects is None:
            raise ConfigError("data.source is object: register it from Python, see qmu_edge.api.init")
        return decoder.source(*given(objects))
    if name := name_of(recipe.source):
        return decoder.source(*given(_plugged(name, recipe.path)))
    if recipe.source != "digits" and recipe.path is None:
        raise ConfigError(f"data.path is missing: {recipe.source} needs a folder")
    if read := _FILES.get(recipe.source):
        return decoder.source(*read(Path(str(recipe.path))))
    if recipe.source.startswith("torchvision:"):
        return decoder.source(*given(_datasets(recipe.source.partition(":")[2], str(recipe.path))))
    found = _as_arrays(recipe)
    return found if form is None else replace(found, images=_made_to(found.images, form.shape, form.fit))


def _as_arrays(recipe: DataRecipe) -> Source:
    if recipe.source == "digits":
        return _digits(recipe.size)
    if recipe.source == "arrays":
        found, left_out = archive(Path(str(recipe.path)), recipe.memory_gb * 2**30)
        n, channels, height, width = found.images.shape
        made = replace(found, images=_resized(found.images, recipe.size, recipe.fit))
        kinds = [("L" if channels == 1 else "RGB", width, height)] * n
        return replace(made, read=read_files(kinds, made.form(recipe.fit), Counter(), left_out))
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


def _joined(recipe: DataRecipe, sets: Mapping[str, Any]) -> Source:
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


def _resized(images: np.ndarray, size: int, fit: str = "stretch") -> np.ndarray:
    return _made_to(images, (images.shape[1], size, size), fit) if size else images


def _made_to(images: np.ndarray, shape: tuple[int, int, int], fit: str) -> np.ndarray:
    return images if images.shape[1:] == shape else np.stack([fitted(one, shape, fit) for one in images])


def _plugged(name: str, path: str | None) -> Mapping[str, ImageDataset]:
    """What the plug-in of a name makes: one dataset, or several by split."""
    found, maker = called("dataset", name)
    make: Maker = maker
    with found.guarded():
        made = make(None if path is None else Path(path))
    sets = made if isinstance(made, Mapping) else {"": made}
    for split, dataset in sets.items():
        if not isinstance(split, str) or not isinstance(dataset, ImageDataset):
            kind = type(dataset).__name__
            raise ConfigError(f"{found}: made {kind}, allowed is an object with a length and items")
    return sets


def _datasets(name: str, path: str) -> dict[str, ImageDataset]:
    """Torchvision's dataset of a name, by split, downloaded where it can be."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError:
        raise ConfigError(f'{name}: needs torchvision, the extra "datasets" of qmu-edge') from None
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type) or name not in datasets.__all__:
        raise ConfigError(f"torchvision:{name}: torchvision has no dataset of this name")
    known = inspect.signature(kind).parameters
    options = {"root": path, **({"download": True} if "download" in known else {})}
    splits: dict[str, dict[str, object]] = {"": {}}
    if "train" in known:
        splits = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in known:
        splits = {"train": {"split": "train"}, "test": {"split": "test"}}
    try:
        return {split: kind(**options, **chosen) for split, chosen in splits.items()}
    except Exception as error:  # each of a hundred classes raises what it likes
        raise ConfigError(f"torchvision:{name}: cannot be read from {path}: {str(error)[:300]}") from None
