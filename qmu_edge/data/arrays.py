"""Images in a NumPy archive (.npz): arrays of images and labels, their splits in the names or not given."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.columns import MAX_NAME
from qmu_edge.data.pictures import SPLITS, LeftOut, Source, in_order, not_read
from qmu_edge.data.subjects import subject_name
from qmu_edge.errors import ConfigError, QmuEdgeError

_IMAGES: Final = ("images", "x")
_LABELS: Final = ("labels", "y")
_SUBJECTS: Final = "subjects"


def archive(path: Path, most_bytes: float) -> tuple[Source, dict[str, LeftOut]]:
    """The images of an archive, and which of its arrays are not read.

    `images` uint8 (n, h, w) or (n, h, w, 3) with `labels` (n,), numbers or text; or the same for each split:
    `train_images` and `train_labels`, `x_train` and `y_train`. `subjects`, text, is named in the same way:
    `train_subjects`, `subjects_train`.

    Args:
        path: The archive.
        most_bytes: How much its arrays may take together.

    Raises:
        ConfigError: It is damaged, holds Python objects, or arrays of other names, shapes or types.
    """
    try:
        with zipfile.ZipFile(path) as file:
            found = sum(member.file_size for member in file.infolist())
        if found > most_bytes:
            raise ConfigError(f"{path}: {found} bytes of arrays, allowed {most_bytes:.0f} (data.memory_gb)")
        with np.load(path, allow_pickle=False) as arrays:
            named = _named(path, arrays.files)
            parts = [_part(path, arrays, split, *names) for split, *names in named]
            used = {name for _, *names in named for name in names}
            left_out = not_read("arrays", (name for name in arrays.files if name not in used))
    except QmuEdgeError:
        raise
    except Exception as error:  # decompressors and the reader of headers raise what they like
        raise ConfigError(f"{path}: not an archive of arrays: {str(error)[:200]}") from None
    return _joined(path, parts), left_out


def _named(path: Path, names: list[str]) -> list[tuple[str, str, str, str]]:
    """Split, and names of the arrays of images, labels and subjects, of each part."""
    named = [split for split in SPLITS if split]
    forms = [("", "{0}"), *((s, f"{s}_{{0}}") for s in named), *((s, f"{{0}}_{s}") for s in named)]
    found = [
        (SPLITS[split], form.format(images), form.format(labels), form.format(_SUBJECTS))
        for split, form in forms for images in _IMAGES for labels in _LABELS
        if form.format(images) in names and form.format(labels) in names
    ]  # fmt: skip
    if not found:
        shown = ", ".join(sorted(names)[:12]) or "none"
        raise ConfigError(f"{path}: arrays {shown}: needed are images and labels, or x_train and y_train")
    return found


def _part(
    path: Path, arrays: Mapping[str, NDArray[Any]], split: str, images: str, labels: str, subjects: str
) -> tuple[str, NDArray[np.uint8], list[str], list[str]]:
    pixels, named = arrays[images], arrays[labels].reshape(-1)
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (3, 4)
        or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
        or 0 in pixels.shape[1:]
    ):
        raise ConfigError(
            f"{path}: {images}: {pixels.dtype} {pixels.shape}, allowed uint8 (n, h, w) or (n, h, w, 3)"
        )
    whom = arrays.get(subjects, np.full(len(named), "")).reshape(-1)
    if named.dtype.kind not in "iuU" or whom.dtype.kind != "U" or not len(pixels) == len(named) == len(whom):
        raise ConfigError(
            f"{path}: {len(pixels)} images, {len(named)} labels ({named.dtype}) and {len(whom)} subjects "
            f"({whom.dtype}): allowed are as many of each, labels numbers or text, subjects text"
        )
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return split, pixels, [str(label) for label in named.tolist()], [str(name) for name in whom.tolist()]


def _joined(path: Path, parts: list[tuple[str, NDArray[np.uint8], list[str], list[str]]]) -> Source:
    shapes = {pixels.shape[1:] for _, pixels, _, _ in parts}
    if len(shapes) > 1:
        raise ConfigError(f"{path}: images of {' and '.join(map(str, sorted(shapes)))}, allowed is one shape")
    longest = max((len(label) for _, _, labels, _ in parts for label in labels), default=0)
    if longest > MAX_NAME:
        raise ConfigError(f"{path}: a label of {longest} characters, allowed {MAX_NAME}")
    names = in_order(label for _, _, labels, _ in parts for label in labels)
    number = {name: i for i, name in enumerate(names)}
    whom = [
        subject_name(name, f"{path}, {split or 'image'} {i}")
        for split, _, _, subjects in parts for i, name in enumerate(subjects)
    ]  # fmt: skip
    return Source(
        np.ascontiguousarray(np.concatenate([pixels for _, pixels, _, _ in parts])),
        np.array([number[label] for _, _, labels, _ in parts for label in labels], np.int64),
        tuple(f"{split or 'images'}/{i:06d}" for split, pixels, _, _ in parts for i in range(len(pixels))),
        np.array([split for split, pixels, _, _ in parts for _ in range(len(pixels))]),
        names,
        tuple((name,) if name else () for name in whom) if any(whom) else (),
    )
