"""Decoded images in a file, and a journal beside it: what a killed process has decoded is not decoded again.

The journal has a line for each image: its place, SHA-256 of the bytes that it was decoded from (with all else
that its pixels depend on), SHA-256 of its pixels, and what was done to it. Whoever goes on believes neither:
an image is taken as decoded where its bytes are the same now, and its pixels are those in the file. So
nothing has to reach the disk in order, and an image that has changed since is decoded anew.

Shapes: n images, uint8 (n, c, h, w).
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from qmu_edge.data.decoding import Decoded
from qmu_edge.data.index import npy_header
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import cannot_write, sync_folder
from qmu_edge.io.json import compact

_MOST_BYTES: Final = 1 << 30  # of a journal


@dataclass(frozen=True, slots=True)
class Line:
    """What a journal says of one image.

    Attributes:
        source: Digest of the bytes that it was decoded from, and of all else that its pixels depend on.
        pixels: Digest of what came of them.
        notes: What was done beyond reading them.
    """

    source: Sha256
    pixels: Sha256
    notes: tuple[str, ...]

    @classmethod
    def of(cls, source: Sha256, image: Decoded) -> "Line":
        """The line of an image that was just decoded."""
        return cls(source, sha256_of(_bytes(image.pixels)), image.notes)


def journal_of(path: Path) -> Path:
    """Where the journal of a file of decoded images lies."""
    return path.with_suffix(".journal")


class Cache:
    """The file, open for writing; a file that is there is gone on with, where it has the same shape.

    Attributes:
        known: What the journal says, by place.
        changed: How many places were asked for with other bytes than it says.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        """Open or make `path` for images of `shape`.

        Raises:
            ConfigError: The disk refuses.
        """
        self.path, self.shape = path, shape
        self.known: dict[int, Line] = {}
        self.changed = self.again = 0
        header = npy_header(shape)
        self._begin, self._size = len(header), prod(shape[1:])
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if os.pread(self._file, len(header), 0) == header:
                self.known = _read(journal_of(path), shape[0])
            else:
                os.ftruncate(self._file, 0)
                _write(self._file, header, 0)
                journal_of(path).unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._journal = os.open(journal_of(path), flags, 0o600)
        except OSError as error:
            raise cannot_write(path, error) from error

    def find(self, place: int, source: Sha256) -> Decoded | None:
        """The image at a place, if it was decoded from the same bytes and is whole; threads may ask."""
        line = self.known.get(place)
        if line is None or line.source != source:
            return None
        found = os.pread(self._file, self._size, self._begin + place * self._size)
        if sha256_of(found) != line.pixels:
            return None
        return Decoded(np.frombuffer(found, np.uint8).reshape(self.shape[1:]), line.notes)

    def put(self, place: int, image: Decoded, line: Line | None) -> None:
        """Write an image that was decoded, and its line where it has one.

        Raises:
            ConfigError: The disk refuses.
        """
        try:
            _write(self._file, _bytes(image.pixels), self._begin + place * self._size)
            if line is not None:
                text = compact([place, line.source, line.pixels, [*line.notes]]) + b"\n"
                _write(self._journal, text, None)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> Self:
        """It is closed at the end, whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Force all to the disk; after an error, other than an interrupt, both files are removed."""
        try:
            if error is None:
                self._whole()
        finally:
            os.close(self._journal)
            os.close(self._file)
            if isinstance(error, Exception):
                for path in (self.path, journal_of(self.path)):
                    with suppress(OSError):
                        path.unlink()

    def _whole(self) -> None:
        try:
            os.ftruncate(self._file, self._begin + self.shape[0] * self._size)
            os.fsync(self._file)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        sync_folder(self.path.parent)


def _bytes(pixels: np.ndarray) -> bytes:
    return np.ascontiguousarray(pixels).tobytes()


def _write(file: int, data: bytes, at: int | None) -> None:
    """All of it: a full disk may take a part."""
    while data:
        done = os.write(file, data) if at is None else os.pwrite(file, data, at)
        data, at = data[done:], None if at is None else at + done


def _read(path: Path, images: int) -> dict[int, Line]:
    """The lines that are whole; of two for a place, the later."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).split(b"\n")
    except OSError:
        return {}
    found: dict[int, Line] = {}
    for text in lines[:-1]:
        with suppress(ValueError, TypeError, RecursionError):
            place, source, pixels, notes = json.loads(text)
            if isinstance(place, int) and 0 <= place < images and _all_text(source, pixels, *notes):
                found[place] = Line(Sha256(source), Sha256(pixels), tuple(notes))
    return found


def _all_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
