"""The archive of a bundle, read by hand: plain members of a USTAR file, and nothing else that tar can do.

A reader of all of tar follows extended headers, sparse maps and links before anything was verified, for as
long as a stranger likes. Here a header is 512 bytes with a name, an octal size and a checksum; a member is a
regular file with a plain name, each once; and all headers are read before any content is. Nothing is
unpacked: who could write into a folder of members could change what was verified.

Source: POSIX.1-2017, pax, "ustar Interchange Format".
Differs: regular files only, no folders in names, no extended headers. An archive that names the format in
    another way (GNU tar's does) but uses none of its extensions is read as well.
"""

from io import BufferedIOBase
from pathlib import Path
from typing import Final, NamedTuple

from qmu_edge.errors import IntegrityError
from qmu_edge.io.names import is_file_name
from qmu_edge.verify.manifest import MAX_BYTES, MAX_ENTRIES

BLOCK: Final = 512
MAX_PADDING: Final = 2**20  # behind the end; tar fills a record, of 10 KiB where nothing else is asked for
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
_KINDS: Final = {
    b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe",
    b"g": "an extended header", b"x": "an extended header", b"L": "an extended header", b"S": "a sparse file",
}  # fmt: skip
EXPECTED: Final = (
    "expected are the bundle's files, uncompressed and without a folder, as bundle.tar came: "
    "tar --format=ustar -C FOLDER -cf bundle.tar $(ls FOLDER)"
)


class Member(NamedTuple):
    """A file in an archive: its name, where its first byte is, and how many there are."""

    name: str
    start: int
    bytes: int


class Archive:
    """An open archive, whose members are read by their names.

    Attributes:
        names: Of all members.
    """

    def __init__(self, file: BufferedIOBase, path: Path) -> None:
        """Read all headers.

        Args:
            file: The archive, open as long as members are read.
            path: What messages call it.

        Raises:
            IntegrityError: It is no archive, is cut off, or holds anything but plain files with plain names.
            OSError: It cannot be read.
        """
        self._file, self._path = file, path
        self._members = {member.name: member for member in _members(file, path)}
        self.names = frozenset(self._members)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a member, or so many of its first bytes.

        Raises:
            IntegrityError: There is less than its header says.
            OSError: It cannot be read.
        """
        member = self._members[name]
        self._file.seek(member.start)
        data = self._file.read(wanted := min(member.bytes, limit))
        if len(data) < wanted:
            raise IntegrityError(f"{self._path}: cut off in {name}; the file is changing")
        return data


def _members(file: BufferedIOBase, path: Path) -> list[Member]:
    """All members, in order; at most `MAX_ENTRIES` headers are read."""
    found: dict[str, Member] = {}
    size = file.seek(0, 2)
    file.seek(0)
    while any(header := file.read(BLOCK)):
        try:
            member = _member(header, file.tell())
        except ValueError as error:
            raise IntegrityError(f"{path}: {error}; {EXPECTED}") from None
        if member.name in found or len(found) == MAX_ENTRIES:
            raise IntegrityError(f"{path}: more than {MAX_ENTRIES} files, or {member.name} twice; {EXPECTED}")
        found[member.name] = member
        end = member.start + -(-member.bytes // BLOCK) * BLOCK
        if end > size:
            raise IntegrityError(f"{path}: cut off in {member.name}")
        file.seek(end)
    rest = file.read(MAX_PADDING + 1)
    if len(header) < BLOCK or any(rest) or len(rest) > MAX_PADDING:
        what = "cut off" if len(header) < BLOCK else "something lies behind its end"
        raise IntegrityError(f"{path}: {what}; {EXPECTED}")
    return [*found.values()]


def _member(header: bytes, start: int) -> Member:
    """What a header of 512 bytes describes; ValueError says what is not allowed."""
    if header.startswith(_COMPRESSED):
        raise ValueError("compressed")
    if len(header) < BLOCK or header[257:262] != b"ustar":
        raise ValueError("no tar archive of this kind")
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
        raise ValueError("a header whose checksum does not hold")
    name, kind = _text(header[345:500] if header[345] else header[:100]), header[156:157]
    shown = ascii(name[:100])
    if kind != b"0":
        raise ValueError(f"member {shown} is {_KINDS.get(kind, 'no regular file')}")
    if header[345] or not is_file_name(name):
        raise ValueError(f"member {shown}: the name is not allowed")
    size = _octal(header[124:136])
    if size > MAX_BYTES:
        raise ValueError(f"member {shown}: {size} bytes, allowed {MAX_BYTES}")
    return Member(name, start, size)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("latin-1")


def _octal(field: bytes) -> int:
    """A number of octal digits; ValueError for anything else, such as GNU's numbers in base 256."""
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise ValueError("a number that is not octal")
    return int(digits, 8)
