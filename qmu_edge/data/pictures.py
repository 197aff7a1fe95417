"""Encoded images of a set, decoded into one array: in memory, or in a file where they may be many.

The headers are read first, which says how large the whole becomes; then every image is decoded, in order, a
few at a time, so that memory holds those few whatever the number of all.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict
from unicodedata import normalize

import numpy as np
import PIL

from qmu_edge.data.cache import Cache, Line
from qmu_edge.data.decoding import (
    DECODING,
    GREY,
    Decoded,
    Encoded,
    decoded,
    decoded_first,
    fitted,
    mode_and_size,
)
from qmu_edge.data.index import Form
from qmu_edge.data.subjects import text_of
from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import file_digest
from qmu_edge.io.progress import Progress
from qmu_edge.machine.processors import processors

_MOST_KINDS: Final = 10
MOST_NAMED: Final = 10
_MOST_SHOWN: Final = 80  # characters of each
_AT_ONCE: Final = 64  # images that are decoded and not yet written


SPLITS: Final = {
    "": "", "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""How sets call their splits."""


def split_of(text: Any, where: str) -> str:
    """The split of a name that a set gives it.

    Raises:
        ConfigError: It is none; `where` is said.
    """
    found = SPLITS.get(text.strip().casefold()) if isinstance(text, str) else None
    if found is None:
        raise ConfigError(f"{where}: split {str(text)[:80]!r}: allowed are train, validation and test")
    return found


def label_of(found: Any, where: str, class_names: Sequence[str] = ()) -> str:
    """The name of the class that a set gives a picture: a text, or a whole number.

    Args:
        found: What the set says.
        where: It stands.
        class_names: What numbers are the numbers of, where the set says.

    Raises:
        ConfigError: It is nothing, something else, or no number of a class.
    """
    text = text_of(found)
    if text is None and found is not None:
        kind = type(found).__name__
        raise ConfigError(f"{where}: a label of the type {kind}, allowed are text and whole numbers")
    if text is None or not text.strip():
        raise ConfigError(f"{where}: no label")
    if not class_names or isinstance(found, str):
        return normalize("NFC", text.strip())
    number = int(found)
    if not 0 <= number < len(class_names):
        raise ConfigError(f"{where}: label {number}, allowed 0 to {len(class_names) - 1}")
    return class_names[number]


def split_of_name(name: str) -> str:
    """The split that the name of a file, or of a folder above it, begins with; "" where it does not.

    >>> [split_of_name(name) for name in ("train-00000-of-00002.parquet", "val/data-00000.arrow", "a.tar")]
    ['train', 'validation', '']
    """
    for part in reversed(Path(name).parts):
        word = re.split(r"[-_.\d]", part.casefold(), maxsplit=1)[0]
        if found := SPLITS.get(word):
            return found
    return ""


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in label order: numbers in theirs, before all others.

    >>> in_order(["10", "b", "2", "b"])
    ('2', '10', 'b')
    """
    return tuple(
        sorted(set(labels), key=lambda name: (not name.isdecimal(), len(name) * name.isdecimal(), name))
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a set, encoded.

    Attributes:
        id: Its sample id.
        split: "train", "validation", "test", or "" where the set says nothing.
        label: Name of its class.
        file: Where its bytes are.
        subjects: The people in it, as far as the set says.
    """

    id: str
    split: str
    label: str
    file: Path | Encoded
    subjects: tuple[str, ...] = ()


class LeftOut(TypedDict):
    """What a set holds besides its images, of one kind.

    Attributes:
        count: How many things.
        first: The first of them; of columns and others that have a name, the first ten.
        suffixes: Of files, how many have which suffix.
    """

    count: int
    first: str
    suffixes: NotRequired[dict[str, int]]


def not_read(what: str, names: Iterable[str]) -> dict[str, LeftOut]:
    """What to say of columns, or other things with a name, that a set has and nobody reads.

    >>> not_read("columns", ["camera", "person"]), not_read("columns", [])
    ({'columns': {'count': 2, 'first': 'camera, person'}}, {})
    """
    found = list(names)
    shown = ", ".join(name[:_MOST_SHOWN] for name in found[:MOST_NAMED])
    return {what: {"count": len(found), "first": shown}} if found else {}


class ReadFiles(TypedDict):
    """What was read of images.

    Attributes:
        files: How many.
        modes_and_sizes: How many there are of each mode and size, the most frequent first.
        made_to: What all of them were made to be.
        decoded: How often something was done to one.
        left_out: By reason.
    """

    files: int
    modes_and_sizes: dict[str, int]
    made_to: str
    decoded: dict[str, int]
    left_out: dict[str, LeftOut]


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset as it comes from its source.

    Attributes:
        images: uint8 (n, c, h, w).
        labels: int64 (n,).
        ids: Sample ids, unique.
        given: "train", "validation", "test", or "" where the source has no split, (n,).
        class_names: k names, in label order.
        subjects: The people in each sample (n), none where they are unknown; empty when the source has no
            word for it.
        read: What was read of the user's own; None for named sets.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    given: np.ndarray
    class_names: tuple[str, ...]
    subjects: tuple[tuple[str, ...], ...] = ()
    read: ReadFiles | None = None

    def form(self, fit: str) -> Form:
        """What the images were made to be, with this `fit`."""
        channels, height, width = self.images.shape[1:]
        return Form(DECODING, (channels, height, width), fit)


@dataclass(frozen=True, slots=True)
class Decoder:
    """How a set becomes an array.

    Attributes:
        size: Side in pixels; 0 for the size of the first image, which all others must have then.
        progress: Where images are counted.
        fit: How images of another aspect are made to be square.
        form: What the images were made to be in another project, instead.
        cache: The .npy file to write, or to go on with, see `qmu_edge.data.cache`; None for an array in
            memory.
        most_bytes: How large the array may become.
    """

    size: int
    progress: Progress
    fit: str = "stretch"
    form: Form | None = None
    cache: Path | None = None
    most_bytes: float = float("inf")

    def source(
        self,
        pictures: Sequence[Picture],
        class_names: Sequence[str] = (),
        left_out: Mapping[str, LeftOut] = {},
    ) -> Source:
        """Decode everything.

        Args:
            pictures: At least one.
            class_names: In label order; those of the pictures, sorted, where none are given.
            left_out: What the set holds besides.

        Raises:
            ConfigError: One does not decode or has another size, or the array becomes too large.
        """
        with ThreadPoolExecutor(processors().threads) as pool:
            kinds = list(pool.map(lambda picture: mode_and_size(picture.file), pictures))
            made = self.form or self._form(pictures[0], {mode for mode, _, _ in kinds})
            self._require_room(len(pictures), made)
            notes = Counter[str]()
            self.progress.start("decoding", len(pictures))
            images = self._kept(pool, pictures, made, notes)
        self.progress.finish()
        names = tuple(class_names) or tuple(sorted({picture.label for picture in pictures}))
        number = {name: i for i, name in enumerate(names)}
        subjects = tuple(picture.subjects for picture in pictures)
        return Source(
            images,
            np.array([number[picture.label] for picture in pictures], np.int64),
            tuple(normalize("NFC", picture.id) for picture in pictures),
            np.array([picture.split for picture in pictures]),
            names,
            subjects if any(subjects) else (),
            read_files(kinds, made, notes, left_out),
        )

    def _form(self, first: Picture, modes: set[str]) -> Form:
        """Colour where any file has colour, and the size of the first one where none is asked for."""
        channels = 1 if modes <= GREY else 3
        size = self.size
        height, width = (size, size) if size else decoded(first.file).pixels.shape[1:]
        return Form(DECODING, (channels, height, width), self.fit)

    def _require_room(self, count: int, form: Form) -> None:
        found = count * prod(form.shape)
        if found > self.most_bytes:
            raise ConfigError(
                f"{count} decoded images of {form.shape} take {found / 2**30:.1f} GiB, allowed "
                f"{self.most_bytes / 2**30:.1f}: set data.size to make them smaller, or data.disk_gb"
            )
        if self.cache is not None:
            self.progress.note(f"decoded images take {found / 2**20:,.0f} MiB of disk")

    def _kept(
        self, pool: ThreadPoolExecutor, pictures: Sequence[Picture], made: Form, notes: Counter[str]
    ) -> np.ndarray:
        """All images as one array, in memory or mapped from the file; what was done to them is counted."""
        shape = (len(pictures), *made.shape)
        if self.cache is None:
            array = np.empty(shape, np.uint8)
            for place, (image, _) in enumerate(self._decoded(pool, pictures, made, None)):
                notes.update(image.notes)
                array[place] = image.pixels
            return array
        with Cache(self.cache, shape) as cache:
            again = 0
            for place, (image, line) in enumerate(self._decoded(pool, pictures, made, cache)):
                notes.update(image.notes)
                if line is not None and line is cache.known.get(place):
                    again += 1
                else:
                    cache.put(place, image, line)
            if cache.known:
                self._tell(again, len(cache.known) - again)
        mapped: np.ndarray = np.load(self.cache, mmap_mode="r", allow_pickle=False)
        return mapped

    def _tell(self, again: int, others: int) -> None:
        self.progress.note(f"{again:,} images had been decoded before")
        if others:
            self.progress.note(f"{others:,} had been, and are others now or not whole: decoded again")

    def _decoded(
        self, pool: ThreadPoolExecutor, pictures: Sequence[Picture], made: Form, cache: Cache | None
    ) -> Iterator[tuple[Decoded, Line | None]]:
        """The images in order, each with its line of the journal."""
        strict = self.form is None and not self.size
        work = _Work(made, strict, cache)
        for start in range(0, len(pictures), _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, len(pictures)))
            for found in pool.map(lambda place: work.one(place, pictures[place]), places):
                yield found
                self.progress.advance(1)


@dataclass(frozen=True, slots=True)
class _Work:
    """How one image becomes pixels: decoded, or taken from the file where it was decoded before."""

    form: Form
    strict: bool
    cache: Cache | None

    def one(self, place: int, picture: Picture) -> tuple[Decoded, Line | None]:
        if self.cache is None:
            return _one(picture.file, self.form, self.strict), None
        file, digest = _hashed(picture.file)
        if digest is None:  # an object's: asking for it is all the work
            return _one(file, self.form, self.strict), None
        about = f"{PIL.__version__}\0{self.form}\0{self.strict}\0{picture.id}\0{digest}"
        source = sha256_of(about.encode())
        if (found := self.cache.find(place, source)) is not None:
            return found, self.cache.known[place]
        image = _one(file, self.form, self.strict)
        return image, Line.of(source, image)


def _hashed(file: Path | Encoded) -> tuple[Path | Encoded, Sha256 | None]:
    """The digest of an image's bytes, and where to decode it from; None where somebody else has decoded it.

    What cannot be read has none either: decoding says why.
    """
    if isinstance(file, Path):
        try:
            return file, file_digest(file) if file.is_file() else None
        except QmuEdgeError:
            return file, None
    try:
        data = file.data()
    except QmuEdgeError:
        raise
    except Exception:  # is raised and named where it is decoded
        return file, None
    return Encoded(file.name, lambda: data), sha256_of(data) if isinstance(data, bytes) else None


def _one(file: Path | Encoded, form: Form, strict: bool) -> Decoded:
    grey = form.shape[0] == 1
    found = decoded(file) if form.decoding == DECODING else decoded_first(file, grey=grey)
    if strict and found.pixels.shape[1:] != form.shape[1:]:
        sizes = [f"{height}x{width}" for _, height, width in (found.pixels.shape, form.shape)]
        name = file if isinstance(file, Path) else file.name
        raise ConfigError(
            f"{name}: {sizes[0]} pixels, the first image has {sizes[1]}; set data.size to resize all"
        )
    return Decoded(fitted(found.pixels, form.shape, form.fit), found.notes)


def read_files(
    kinds: Sequence[tuple[str, int, int]], form: Form, notes: Counter[str], left_out: Mapping[str, LeftOut]
) -> ReadFiles:
    """What was read.

    Args:
        kinds: Mode, width and height of each image.
        form: What they were made to be.
        notes: How often something was done to one.
        left_out: What the set holds besides.
    """
    by_kind = Counter(f"{mode} {width}x{height}" for mode, width, height in kinds)
    shown = dict(by_kind.most_common(_MOST_KINDS))
    more = {"others": len(kinds) - sum(shown.values())} if len(by_kind) > len(shown) else {}
    made = "x".join(map(str, form.shape))
    return {
        "files": len(kinds),
        "modes_and_sizes": shown | more,
        "made_to": f"{made} (channels, height, width)"
        + (", cut to the middle" if form.fit == "crop" else ""),
        "decoded": dict(sorted(notes.items())),
        "left_out": dict(left_out),
    }
