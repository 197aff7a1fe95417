"""Files that are written once and found again by their SHA-256.

Contract. A file is complete under its name or it is not there: bytes go to a temporary file in
the same folder, are forced to the disk and then renamed. The name of an object is the digest of
its content, so nothing is ever overwritten with something else, and whoever opens an object
through this module learns at once that it was altered. Objects are their owner's alone: a
checkpoint knows people by heart. Only `remove` deletes an object; what a killed writer has left
unfinished is removed by the next one that locks the store.
"""

import os
import stat
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256, is_sha256, sha256_of
from qmu_edge.io.files import (
    LITTER,
    MAX_FILE,
    TEMPORARY,
    cannot_read,
    cannot_write,
    file_digest,
    make_folder,
    sync_folder,
    write_blocks,
)


class ObjectStore:
    """The folder of objects: content `x` lies at `root/ab/cdef...`, where abcdef... = SHA-256(x).

    Attributes:
        root: The folder; made with the first object.
    """

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.root = root

    def path(self, digest: Sha256) -> Path:
        """Where the object of this digest lies, whether it exists or not.

        >>> ObjectStore(Path("objects")).path(Sha256("ab" + 62 * "0")).as_posix()[:16]
        'objects/ab/00000'

        Raises:
            IntegrityError: Not 64 lower-case hex digits; no path is made of such a name.
        """
        if not is_sha256(digest):
            raise IntegrityError(f"digest {digest!r} is not 64 lower-case hex digits ({self.root})")
        return self.root / digest[:2] / digest[2:]

    def put_bytes(self, data: bytes) -> Sha256:
        """Store `data` and return its digest; storing it again changes nothing.

        Raises:
            ConfigError: It cannot be written; nothing was changed.
        """
        digest = sha256_of(data)
        self._put(digest, [data])
        return digest

    def put_released(self, data: bytes) -> Sha256:
        """Store the bytes of a file that ships; it is never encrypted.

        Raises:
            ConfigError: It cannot be written; nothing was changed.
        """
        return self.put_bytes(data)

    def verify(self, digest: Sha256) -> None:
        """Hash the content of an object.

        Raises:
            IntegrityError: The object is missing, not a plain file, or altered.
        """
        path = self._present(digest)
        _require_bytes(path, digest, MAX_FILE)
        _same(digest, file_digest(path), path)

    def get_bytes(self, digest: Sha256, limit: int = 64 << 20) -> bytes:
        """Content of an object of at most `limit` bytes, verified.

        Raises:
            IntegrityError: The object is missing, larger than `limit`, or altered.
        """
        path = self._present(digest)
        _require_bytes(path, digest, limit)
        try:
            with path.open("rb") as file:
                data = file.read(limit)
        except OSError as error:
            raise cannot_read(path, error) from error
        _same(digest, sha256_of(data), path)
        return data

    def remove(self, digest: Sha256) -> None:
        """Remove an object for good, whatever state it is in; one that is missing already is no error.

        Nobody but `qmu_edge.project.purge` may call this: it knows what is still needed.

        Raises:
            ConfigError: It cannot be removed.
        """
        path = self.path(digest)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot remove {path}: {error.strerror}") from error
        if path.parent.is_dir():
            sync_folder(path.parent)

    def __iter__(self) -> Iterator[Sha256]:
        """Digests of the objects by name, sorted, not verified; other files are passed over."""
        return (Sha256(name) for path, name in self._files() if self._is_object(path, name))

    def problems(self, *, besides: Container[str] = ()) -> list[str]:
        """Hash every object but some and say what is wrong, one sentence each; an empty list is health.

        Temporary files are passed over, see `qmu_edge.io.files.unfinished`; so is what file managers leave.
        """
        problems = []
        for path, name in self._files():
            if path.name.startswith(TEMPORARY) or path.name in LITTER:
                continue
            if not self._is_object(path, name):
                problems.append(f"no object of this store: {path}")
            elif name not in besides:
                try:
                    self.verify(Sha256(name))
                except IntegrityError as error:
                    problems.append(str(error))
        return problems

    def _present(self, digest: Sha256) -> Path:
        path = self.path(digest)
        if not _is_plain(path):
            found = "something that is no plain file" if os.path.lexists(path) else "no file"
            raise IntegrityError(f"object {digest}: expected a file, found {found} at {path}")
        return path

    def _put(self, digest: Sha256, blocks: Iterable[bytes]) -> None:
        target = self.path(digest)
        try:
            make_folder(target.parent, 0o700)
        except OSError as error:
            raise cannot_write(target, error) from error
        if not self._holds(digest):
            write_blocks(target, blocks, 0o400)
        # Also when the object was there: its writer may have died before it got this far, and
        # a ledger row must not point at a name that a power cut can still take away.
        for folder in (target.parent, self.root, self.root.parent):
            sync_folder(folder)

    def _holds(self, digest: Sha256) -> bool:
        """Whether the object is there and right; an altered one is written again."""
        try:
            self.verify(digest)
        except IntegrityError:
            return False
        return True

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Everything below root that is not a folder, with its would-be digest; sorted."""
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                yield path, path.parent.name + path.name

    def _is_object(self, path: Path, name: str) -> bool:
        return is_sha256(name) and path == self.path(Sha256(name))


def _is_plain(path: Path) -> bool:
    """A regular file itself, not a link to one: a link could lead out of the store."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except PermissionError as error:
        raise cannot_read(path, error) from None
    except OSError:
        return False


def _require_bytes(path: Path, digest: str, limit: int) -> None:
    """Before any is read."""
    if path.stat().st_size > limit:
        raise IntegrityError(f"object {digest}: more than the {limit} bytes allowed ({path})")


def _same(expected: str, found: str, path: Path) -> None:
    if found != expected:
        raise IntegrityError(
            f"object {expected} is altered: expected SHA-256 {expected}, found {found} ({path})"
        )
