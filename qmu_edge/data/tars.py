"""Images in tar files as WebDataset lays them out: files of one sample have one name and follow one another.

`KEY.jpg` (or another image) with `KEY.cls`, the label, or `KEY.json` with `label` and perhaps `split` and
`subject`. Images are read from where they lie in the archive, which is not unpacked.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from qmu_edge.data.decoding import Encoded
from qmu_edge.data.folder import SUFFIX, SUFFIXES
from qmu_edge.data.pictures import (
    MOST_NAMED,
    LeftOut,
    Picture,
    in_order,
    label_of,
    not_read,
    split_of,
    split_of_name,
)
from qmu_edge.data.subjects import people_in
from qmu_edge.errors import ConfigError

_MOST_LABEL: Final = 1 << 16  # bytes of what stands beside an image
_MOST_IMAGE: Final = 1 << 28
_MOST_HEADER: Final = 1 << 13
_MOST_KEYS: Final = 1000  # that are noted as not read
_READ: Final = frozenset({"label", "split", "subject"})
_ABOUT_THE_NEXT: Final = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_END: Final = 512  # zero bytes that close an archive
_BROKEN: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


def archives(path: Path) -> tuple[list[Picture], tuple[str, ...], dict[str, LeftOut]]:
    """The pictures of a tar file, or of all in a folder.

    Raises:
        ConfigError: One is cut off, compressed or no archive, or an image has no label.
    """
    found: list[Picture] = []
    left_out: list[str] = []
    unread = _Unread()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*.tar") if p.is_file()):
        name = file.relative_to(path).as_posix() if file != path else file.name
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        for member, start, size in _members(file):
            folder, _, last = member.rpartition("/")
            stem, _, suffix = last.partition(".")
            parts = samples.setdefault(f"{folder}/{stem}".lstrip("/"), {})
            if suffix.lower() in parts:  # an image of one sample with the person of another
                raise ConfigError(f"{file}: {member[:80]!r}: a second file of this sample and suffix")
            parts[suffix.lower()] = (start, size)
        for key, parts in samples.items():
            if picture := _picture(file, name, key, parts, unread):
                found.append(picture)
            else:
                left_out.append(f"{name}/{key}")
    if not found:
        raise ConfigError(f"{path}: no images")
    skipped: dict[str, LeftOut] = {}
    if left_out:
        skipped["without an image"] = {"count": len(left_out), "first": left_out[0]}
    return found, in_order(picture.label for picture in found), skipped | unread.to_json()


@dataclass(slots=True)
class _Unread:
    """What stands beside images and is not read: keys of .json members, and members by suffix.

    Attributes:
        first: Such a member.
    """

    keys: dict[str, None] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def note(self, sample: str, parts: Iterable[str], keys: Iterable[str]) -> None:
        """Those of a sample."""
        for part in parts:
            self.first = self.first or f"{sample}.{part}"
            self.suffixes[f".{part[:20]}"] += 1
        if len(self.keys) < _MOST_KEYS:
            self.keys |= dict.fromkeys(key for key in keys if key not in _READ)

    def to_json(self) -> dict[str, LeftOut]:
        """What to say of it."""
        found = not_read("keys of .json", self.keys)
        if self.suffixes:
            count, few = self.suffixes.total(), dict(self.suffixes.most_common(MOST_NAMED))
            found[SUFFIX] = {"count": count, "first": self.first, "suffixes": few}
        return found


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and bytes of each file; whole, or an error."""
    end = 0
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as archive:
            for member in archive:
                if member.size < 0 or archive.offset <= end:  # it would be read again, for ever
                    raise ValueError(f"a member of {member.size} bytes")
                if member.isfile() and not member.issparse():
                    yield member.name, member.offset_data, member.size
                end = archive.offset
        whole = not any(closing := _read(path, end, _END)) and len(closing) == _END
    except _BROKEN as error:
        raise ConfigError(f"{path}: not a whole, uncompressed tar file: {str(error)[:200]}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if not whole:
        raise ConfigError(f"{path}: cut off, or damaged, behind byte {end}")


class _Header(tarfile.TarInfo):
    """A header; what says more about a member, in front of it, is small: long ones take Python for ever."""

    @classmethod
    def frombuf(cls, *args: Any, **kwargs: Any) -> "_Header":
        """Read 512 bytes."""
        found = super().frombuf(*args, **kwargs)
        if found.type in _ABOUT_THE_NEXT and not 0 <= found.size <= _MOST_HEADER:
            raise ValueError(f"a header of {found.size} bytes, allowed {_MOST_HEADER}")
        return found


def _picture(
    path: Path, name: str, key: str, parts: dict[str, tuple[int, int]], unread: _Unread
) -> Picture | None:
    where = f"{path}: {key[:80]!r}"
    images = [suffix for suffix in parts if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    plain = [suffix for suffix in images if f".{suffix}" in SUFFIXES] or images  # a mask is KEY.mask.png
    if not plain:
        return None
    if len(plain) > 1:
        raise ConfigError(f"{where}: images .{' and .'.join(plain[:4])}, allowed is one")
    image = plain[0]
    if parts[image][1] > _MOST_IMAGE:
        raise ConfigError(f"{where}: an image of {parts[image][1]} bytes, allowed {_MOST_IMAGE}")
    noted: dict[str, object] = {}
    if "json" in parts:
        noted = _noted(path, *parts["json"], where)
    if "cls" in parts:
        noted["label"] = _text(path, *parts["cls"], where)
    if noted.get("label") is None:
        raise ConfigError(f"{where}: no label: needed is a member .cls, or .json with label")
    unread.note(f"{name}/{key}", (part for part in parts if part not in (image, "json", "cls")), noted)
    split = noted.get("split")
    return Picture(
        f"{name.removesuffix('.tar')}/{key}",
        split_of_name(name) if split in (None, "") else split_of(split, where),
        label_of(noted["label"], where),
        Encoded(where, partial(_read, path, *parts[image])),
        people_in(noted.get("subject"), where),
    )


def _noted(path: Path, start: int, size: int, where: str) -> dict[str, object]:
    try:
        found = json.loads(_text(path, start, size, where))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: its .json: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: its .json is no object")
    return found


def _text(path: Path, start: int, size: int, where: str) -> str:
    if size > _MOST_LABEL:
        raise ConfigError(f"{where}: a label of {size} bytes, allowed {_MOST_LABEL}")
    try:
        return _read(path, start, size).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: its label is not UTF-8 at byte {error.start}") from None


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
