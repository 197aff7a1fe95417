"""A disk that forgets: what is left of a recorded run when the power goes.

A file's data last from its `fsync` on, a name in a folder from the `fsync` of that folder on; nothing else
does (POSIX promises no more). Everything later is lost, or any part of it is kept: writes in any
combination and in pieces, names up to any moment. `mount` makes a real folder of what is left.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512


class Call(NamedTuple):
    """One recorded call; `result` is below 0 when it failed."""

    op: str
    result: int
    offset: int
    data: bytes
    path: str
    other: str


def recorded(path: Path) -> list[Call]:
    """The calls that the shim has recorded, in order."""
    return list(_calls(path.read_bytes()))


def _calls(text: bytes) -> Iterator[Call]:
    at = 0
    while at < len(text):
        end = text.index(b"\n", at)
        op, result, offset, size, path, other = text[at:end].decode().split("\t")
        at = end + 1 + int(size)
        yield Call(op, int(result), int(offset), text[end + 1 : at], path, other)


@dataclass
class File:
    """A file: what is on the disk, what programs see, and the changes in between."""

    safe: bytes = b""
    seen: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, offset: int, data: bytes | None) -> None:
        """Write `data`, or cut at `offset` when it is None."""
        self.seen = _changed(self.seen, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        """Make it last."""
        self.safe, self.pending = self.seen, []


@dataclass
class Link:
    """A symbolic link; lasts with its name."""

    target: str


@dataclass
class Folder:
    """Names: those on the disk, those that programs see, and the changes in between."""

    safe: "dict[str, Node]" = field(default_factory=dict)
    seen: "dict[str, Node]" = field(default_factory=dict)
    pending: "list[dict[str, Node | None]]" = field(default_factory=list)

    def change(self, names: "dict[str, Node | None]") -> None:
        """Set or remove names, all at once."""
        _rename(self.seen, names)
        self.pending.append(names)

    def sync(self) -> None:
        """Make it last."""
        self.safe, self.pending = dict(self.seen), []


Node = File | Link | Folder


def _changed(content: bytes, offset: int, data: bytes | None) -> bytes:
    if data is None:
        return content[:offset].ljust(offset, b"\0")
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def _rename(names: dict[str, Node], changes: "dict[str, Node | None]") -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """The disk under `root`, on which everything that is there now lasts."""

    def __init__(self, root: Path) -> None:
        """Read the folder."""
        self.root = root
        self.top = _loaded(root)

    def replay(self, call: Call) -> None:
        """Do what a recorded call did."""
        if call.result < 0 or call.op == "mode":
            return
        folder, name = self._find(call.path)
        node = folder.seen.get(name) if name else folder
        if call.op == "create":
            folder.change({name: File()})
        elif call.op == "folder":
            folder.change({name: Folder()} if name else {})  # the root itself is there, and lasts
        elif call.op == "link":
            folder.change({name: Link(call.other)})
        elif call.op == "remove":
            folder.change({name: None})
        elif call.op == "rename":
            self._move(folder, name, call.other)
        elif isinstance(node, File):
            _change_file(node, call)
        elif isinstance(node, Folder) and call.op == "sync":
            node.sync()

    def _move(self, folder: Folder, name: str, to: str) -> None:
        target, new = self._find(to)
        node = folder.seen[name]
        if target is folder:
            folder.change({name: None, new: node})
        else:
            target.change({new: node})
            folder.change({name: None})

    def _find(self, path: str) -> tuple[Folder, str]:
        parts = Path(path).relative_to(self.root).parts
        folder = self.top
        for part in parts[:-1]:
            below = folder.seen[part]
            assert isinstance(below, Folder), path
            folder = below
        return folder, parts[-1] if parts else ""

    def mount(self, at: Path, chance: random.Random | None) -> Path:
        """Write what is left into the new folder `at`: nothing unsynced, or what `chance` keeps of it."""
        _mount(self.top, at, chance)
        return at


def _change_file(file: File, call: Call) -> None:
    if call.op == "sync":
        file.sync()
    elif call.op == "write":
        file.change(call.offset, call.data)
    else:
        file.change(call.offset if call.op == "resize" else 0, None)


def _loaded(path: Path) -> Folder:
    folder = Folder()
    for entry in path.iterdir() if path.is_dir() else ():
        node: Node
        if entry.is_symlink():
            node = Link(str(entry.readlink()))
        elif entry.is_dir():
            node = _loaded(entry)
        else:
            node = File(entry.read_bytes(), entry.read_bytes())
        folder.seen[entry.name] = node
    folder.sync()
    return folder


def _mount(folder: Folder, at: Path, chance: random.Random | None) -> None:
    at.mkdir(mode=0o700)
    names = dict(folder.safe)
    for changes in folder.pending[: chance.randint(0, len(folder.pending))] if chance else ():
        _rename(names, changes)
    for name, node in names.items():
        if isinstance(node, Folder):
            _mount(node, at / name, chance)
        elif isinstance(node, Link):
            (at / name).symlink_to(node.target)
        else:
            (at / name).write_bytes(_left(node, chance))
            (at / name).chmod(0o600)


def _left(file: File, chance: random.Random | None) -> bytes:
    content = file.safe
    for offset, data in file.pending if chance else ():
        assert chance is not None
        if chance.random() < 0.5:
            torn = chance.random() < 0.3 and data is not None
            content = _changed(
                content, offset, data[: SECTOR * chance.randint(0, 8)] if torn and data else data
            )
    return content
