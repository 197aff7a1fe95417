"""Images, labels and golden logits from `.npz` and `.npy` files, which are hostile input as well.

Nothing is unpickled, and no array is read before its header was compared with the bytes that follow it.
"""

import io
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.verify.evaluation import Labelled, SetName

MAX_BYTES: Final = 16 * 2**30
MAX_MEMBERS: Final = 64
MAX_RATIO: Final = 100  # unpacked to packed; images stay below 10, a bomb reaches 1000
MAX_HEADER: Final = 10 + 2**16  # magic, version and length; then so much text at most
_NUMBERS: Final = ("networks", "intraclass", "flip", "exact", "release_unmeasurable")
CLASSES: Final = "classes"
OUTPUTS: Final = "outputs"
MOST_VALUE: Final = 1e9  # of a score or a count
SMALL_BYTES: Final = 2**26  # so much may be unpacked from a file of any size
_HEADER: Final = re.compile(
    rb"\{'descr': '[<>|][uif](?P<bytes>\d)', 'fortran_order': (True|False), "
    rb"'shape': \((?P<shape>(\d{1,18}, ?)*+(\d{1,18})?)\), \} *\n"
)


def read_npz(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Read all arrays of an `.npz` file.

    Args:
        path: The file.
        max_bytes: Largest sum of the unpacked arrays.

    Returns:
        Arrays by name.

    Raises:
        ConfigError: There is no such file.
        IntegrityError: No `.npz` file, too large, damaged, or an array of Python objects.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with _integrity_errors(path, ".npz"), path.open("rb") as opened:  # once: what is checked is what is read
        allowed = min(max_bytes, max(SMALL_BYTES, MAX_RATIO * os.fstat(opened.fileno()).st_size))
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > allowed or len(members) > MAX_MEMBERS:
                raise IntegrityError(
                    f"{path}: {len(members)} arrays of {total} bytes, allowed {MAX_MEMBERS} of {allowed}"
                )
            for member in members:
                with archive.open(member) as file:
                    _require_header(file.read(MAX_HEADER), member.file_size)
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def read_npy(data: bytes, path: Path) -> NDArray[Any]:
    """Read the array of an `.npy` file.

    Args:
        data: Its content.
        path: What messages call it.

    Raises:
        IntegrityError: Damaged, or an array of Python objects.
    """
    with _integrity_errors(path, ".npy"):
        _require_header(data[:MAX_HEADER], len(data))
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSets:
    """Sets to measure a file on, with what a verdict needs beside the files.

    Attributes:
        sets: Images and labels.
        references: Mean score of each image under networks that never saw it, float (n,), by set.
        people: Whose each image is, as numbers (n,), by set.
        networks: Fewest networks behind a mean in `references`.
        intraclass: Correlation of one person's images, see `qmu_edge.verify.residual`.
        flip: Whether scores are means over an image and its mirror image.
        exact: Whether the network was trained without the forget set.
        release_unmeasurable: Whether a file passes of whose original nothing could be said either.
        classes: Classes that are forgotten whole.
        outputs: Of a file from which outputs were taken out, the class of each that it has; () where it has
            all.
    """

    sets: Mapping[SetName, Labelled]
    references: Mapping[SetName, NDArray[Any]] = field(default_factory=dict)
    people: Mapping[SetName, NDArray[Any]] = field(default_factory=dict)
    networks: int = 0
    intraclass: float = 0.0
    flip: bool = False
    exact: bool = False
    release_unmeasurable: bool = False
    classes: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


def read_sets(path: Path) -> MeasuredSets:
    """Read `forget_images`, `forget_labels`, and likewise `retain_`, `test_`, `validation_`.

    Each set may have `..._references` and `..._people`. With references the file also holds the numbers
    `networks`, `intraclass` and `flip`; what else a verdict was made by are `exact`, `release_unmeasurable`
    and `classes`; `outputs` are those of a file from which some were taken out.

    Returns:
        The sets that the file holds; shapes and types of images are not looked at here.

    Raises:
        ConfigError: Images without labels, other arrays, no set at all.
        IntegrityError: See `read_npz`.
    """
    arrays = read_npz(path)
    allowed = {f"{name}_{what}" for name in SetName for what in ("images", "labels")}
    names = [name for name in SetName if f"{name}_images" in arrays and f"{name}_labels" in arrays]
    more = {f"{name}_{what}" for name in names for what in ("references", "people")}
    more |= {*_NUMBERS, CLASSES, OUTPUTS}
    if not names or len(arrays.keys() - more) != 2 * len(names):
        raise ConfigError(f"{path}: holds {sorted(arrays)}; allowed pairs of {sorted(allowed)}")
    sets = {name: Labelled(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in names}
    numbers = {key: _number(arrays[key], key, path) for key in _NUMBERS if key in arrays}
    return MeasuredSets(
        sets,
        _vectors(arrays, sets, "references", "f", path),
        _vectors(arrays, sets, "people", "iu", path),
        networks=int(numbers.get("networks", 0)),
        intraclass=min(1.0, max(0.0, numbers.get("intraclass", 0.0))),
        flip=bool(numbers.get("flip", 0)),
        exact=bool(numbers.get("exact", 0)),
        release_unmeasurable=bool(numbers.get("release_unmeasurable", 0)),
        classes=_classes(arrays.get(CLASSES), CLASSES, path),
        outputs=_classes(arrays.get(OUTPUTS), OUTPUTS, path),
    )


def _vectors(
    arrays: Mapping[str, NDArray[Any]], sets: Mapping[SetName, Labelled], what: str, kinds: str, path: Path
) -> dict[SetName, NDArray[Any]]:
    """One value for each image of the sets that have this array."""
    found = {name: arrays[f"{name}_{what}"] for name in sets if f"{name}_{what}" in arrays}
    for name, values in found.items():
        good = values.dtype.kind in kinds and values.shape == sets[name].labels.shape
        if not good or not (np.abs(values.astype(np.float64)) < MOST_VALUE).all():
            raise ConfigError(
                f"{path}: {name}_{what} is {values.dtype} {values.shape}; allowed one per image"
            )
    return found


def _classes(array: NDArray[Any] | None, key: str, path: Path) -> tuple[int, ...]:
    if array is None:
        return ()
    whole = array.ndim == 1 and array.dtype.kind in "iu"
    if not whole or not (np.abs(array.astype(np.float64)) < MOST_VALUE).all():
        raise ConfigError(f"{path}: {key} is {array.dtype} {array.shape}; allowed whole numbers (n,)")
    return tuple(int(k) for k in array)


def _number(array: NDArray[Any], key: str, path: Path) -> float:
    if array.shape != () or not 0 <= float(array) < MOST_VALUE:
        raise ConfigError(f"{path}: {key} is {array.dtype} {array.shape}; allowed one number from 0")
    return float(array)


def read_golden(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read `images`, as `OrtRunner.logits` takes them, and `logits`, float (n, k).

    Raises:
        ConfigError: Other arrays.
        IntegrityError: See `read_npz`.
    """
    arrays = read_npz(path)
    if set(arrays) != {"images", "logits"} or arrays["logits"].dtype.kind != "f":
        raise ConfigError(f"{path}: holds {sorted(arrays)}; allowed images and float logits")
    return arrays["images"], arrays["logits"]


@contextmanager
def _integrity_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn the many errors of numpy's and zip's readers into ours."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        SyntaxError,
        KeyError,
        OSError,
        EOFError,
        MemoryError,
        RuntimeError,  # an encrypted member
        zipfile.BadZipFile,
        zlib.error,
        tokenize.TokenError,  # numpy parses headers as Python
    ) as error:
        raise IntegrityError(f"{path}: not a readable {kind} file: {str(error)[:200]!r}") from error


def _require_header(start: bytes, size: int) -> None:
    """Compare what an array of `size` bytes says it holds with the bytes it has.

    Only headers as numpy writes them: its reader evaluates others as Python, in several ways.
    """
    length = int.from_bytes(start[8:10], "little")
    header = _HEADER.fullmatch(start[10 : 10 + length])
    if not start.startswith(b"\x93NUMPY\x01\x00") or header is None:
        raise ValueError("not an array of plain numbers in numpy's format 1.0")
    shape = [int(n) for n in header["shape"].split(b",") if n.strip()]
    if math.prod(shape) * int(header["bytes"]) > size:
        raise ValueError(f"an array {shape} in {size} bytes")
