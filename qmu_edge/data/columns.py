"""Columns of a large table in little memory: many names, or many digests, each read as text.

A million Python strings take half a gigabyte; here they are one buffer. A column is a sequence of
str for whoever asks for single values, and `find` answers for many at once. Shapes: n values.
"""

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import PATTERN
from qmu_edge.io.json import INVISIBLE

MAX_NAME: Final = 512
_CHUNK: Final = 1 << 14  # Python strings that exist at the same time
_BLANK: Final = "0" * 64


class Column(Sequence[str]):
    """A sequence of n texts that can be searched for many at once.

    Attributes:
        keys: A number of each value (n,), int64; equal values have equal numbers.
    """

    keys: NDArray[np.int64]

    @abstractmethod
    def at(self, position: int) -> str:
        """The value at a position, 0 to n - 1."""

    @abstractmethod
    def keys_of(self, values: Collection[str]) -> NDArray[np.int64]:
        """What `keys` would hold for these values."""

    def find(self, wanted: Collection[str]) -> NDArray[np.int64]:
        """Positions, ascending, of the values that are among the wanted."""
        among = frozenset(wanted)
        near = _sieve(self.keys, self.keys_of(among))
        exact = np.fromiter((self.at(i) in among for i in near.tolist()), np.bool_, len(near))
        return near[exact]

    def mask(self, wanted: Collection[str]) -> NDArray[np.bool_]:
        """Which values (n,) are among the wanted."""
        found = np.zeros(len(self), np.bool_)
        found[self.find(wanted)] = True
        return found

    def __len__(self) -> int:
        """How many values there are."""
        return len(self.keys)

    @overload
    def __getitem__(self, position: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: SupportsIndex | slice) -> str | list[str]:
        """One value, or a list of some."""
        chosen = range(len(self))[position]
        return self.at(chosen) if isinstance(chosen, int) else [self.at(i) for i in chosen]


class Names(Column):
    """Unique names.

    Attributes:
        data: All names in UTF-8, a line feed between two.
    """

    def __init__(self, names: Iterable[str], what: str = "names") -> None:
        """Take names of 1 to 512 characters in Unicode normal form NFC, with nothing invisible.

        Raises:
            ConfigError: A name is not of this form, or appears twice; messages call the column `what`.
        """
        parts, keys = [], [np.empty(0, np.int64)]
        for chunk in _chunks(names):
            _require_names(chunk, what)
            parts.append("\n".join(chunk).encode())
            keys.append(self.keys_of(chunk))
        self.keys, self.data = np.concatenate(keys), b"\n".join(parts)
        breaks = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n"))
        self._starts = np.concatenate(([0], breaks + 1, [len(self.data) + 1]))
        self._require_unique(what)

    def at(self, position: int) -> str:
        """The name at a position."""
        return self.data[self._starts[position] : self._starts[position + 1] - 1].decode()

    def keys_of(self, values: Collection[str]) -> NDArray[np.int64]:
        """Python's hashes: seeded anew in each process, so nobody can make names that collide."""
        return np.fromiter(map(hash, values), np.int64, len(values))

    def __iter__(self) -> Iterator[str]:
        """All names in order."""
        for first in range(0, len(self), _CHUNK):
            last = min(first + _CHUNK, len(self))
            yield from self.data[self._starts[first] : self._starts[last] - 1].decode().split("\n")

    def _require_unique(self, what: str) -> None:
        order = np.argsort(self.keys)
        same = self.keys[order[1:]] == self.keys[order[:-1]]
        suspects = np.flatnonzero(np.append(same, False) | np.append(False, same))
        seen: set[str] = set()
        for name in map(self.at, order[suspects].tolist()):
            if name in seen:
                raise ConfigError(f"sample index: {what}: {name[:80]!r} appears twice")
            seen.add(name)


class Digests(Column):
    """SHA-256 or HMAC-SHA256 values, read and found as 64 hex digits; "" where there is none.

    Attributes:
        raw: The values (n, 32), uint8; all zero where there is none.
    """

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        """Take the bytes of the values (n, 32)."""
        self.raw = np.ascontiguousarray(raw)
        self.keys = self.raw.view(np.int64)[:, 0]

    @classmethod
    def of(cls, digests: Iterable[str], what: str = "digests", *, blank: bool = False) -> "Digests":
        """The column of these values.

        Args:
            digests: 64 lower-case hex digits each, not all zero.
            what: What they are called in an error.
            blank: Whether "" is allowed.

        Raises:
            ConfigError: A value is something else.
        """
        allowed = re.compile(f"({PATTERN})?" if blank else PATTERN, re.ASCII)
        parts = []
        for chunk in _chunks(digests):
            if not all(map(allowed.fullmatch, chunk)) or _BLANK in chunk:
                raise ConfigError(f"sample index: {what}: allowed 64 lower-case hex digits each")
            parts.append(bytes.fromhex("".join(digest or _BLANK for digest in chunk)))
        return cls(np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 32))

    def at(self, position: int) -> str:
        """The value at a position."""
        digest = self.raw[position].tobytes().hex()
        return "" if digest == _BLANK else digest

    def keys_of(self, values: Collection[str]) -> NDArray[np.int64]:
        """The first eight bytes of each."""
        return np.fromiter((_first(v) for v in values), np.int64, len(values))


def _first(digest: str) -> int:
    try:
        return int(np.frombuffer(bytes.fromhex(digest[:16]), np.int64)[0]) if digest else 0
    except ValueError:  # no digest, so it is not found by its text either
        return 0


def _sieve(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions where a key is among the wanted; a table of the low 16 bits goes first: it is fast."""
    near = np.zeros(1 << 16, np.bool_)
    near[wanted & 0xFFFF] = True
    maybe = np.flatnonzero(near[keys & 0xFFFF])
    return maybe[np.isin(keys[maybe], wanted)]


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _require_names(names: Sequence[str], what: str) -> None:
    """Check many names as one text first, and one by one only where that finds something."""
    text, lengths = "".join(names), set(map(len, names))
    if text.isascii() and text.isprintable() and min(lengths) >= 1 and max(lengths) <= MAX_NAME:
        return
    bad = next((name for name in names if not _is_name(name)), None)
    if bad is not None:
        raise ConfigError(
            f"sample index: {what}: found {bad[:80]!r}, allowed 1 to {MAX_NAME} characters in "
            "Unicode normal form NFC without control or invisible characters"
        )


def _is_name(name: str) -> bool:
    good = 1 <= len(name) <= MAX_NAME and not INVISIBLE.search(name)
    return good and unicodedata.is_normalized("NFC", name)
