"""Files: read within bounds, written whole or not at all."""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Final, TypeAlias

from qmu_edge.errors import ConfigError, IntegrityError, QmuEdgeError
from qmu_edge.io.digest import Sha256

BLOCK_BYTES: Final = 1 << 20
MAX_FILE: Final = 4 << 30
TEMPORARY: Final = ".tmp-"  # how the name of every unfinished file begins
UNFINISHED: Final = ".qmu-edge-unfinished-"  # and that of a folder outside the store: nobody else's begins so
LITTER: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of whoever looked into a folder


AnyPath: TypeAlias = Path | str
"""A path as whoever calls `qmu_edge.api` says it."""


def path_of(given: AnyPath | None) -> Path | None:
    """A path that may be missing.

    >>> path_of(None), str(path_of("shop"))
    (None, 'shop')
    """
    return None if given is None else Path(given)


class NotRegular(OSError):
    """What was opened is a pipe, a device, or a socket."""


def open_regular(path: Path, *, links: bool = True) -> BufferedIOBase:
    """A regular file, open for reading: what is looked at through it is what is read.

    Args:
        path: Of the file.
        links: Whether a link is followed.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """
    # O_NONBLOCK so that nobody waits for a pipe's other end.
    flags = ("O_NONBLOCK", "O_BINARY") if links else ("O_NONBLOCK", "O_BINARY", "O_NOFOLLOW")
    handle = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    file = open(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise NotRegular(errno.EINVAL, "not a regular file", str(path))
    return file


def read_regular(path: Path, *, limit: int, error: type[QmuEdgeError]) -> bytes:
    """The whole content of a regular file.

    Args:
        path: Links are followed.
        limit: Most bytes it may have.
        error: What to raise.

    Raises:
        QmuEdgeError: An `error`: there is no such file, it is not a regular one, it is larger than
            `limit`, or it cannot be read. A ConfigError where permission is all that is missing.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (IsADirectoryError, NotRegular):
        raise error(f"{path}: not a regular file") from None
    except OSError as problem:
        raise cannot_read(path, problem, error) from None
    except ValueError as problem:  # a path with a zero byte
        raise error(f"{path}: cannot be read: {problem}") from None
    if len(data) > limit:
        raise error(f"{path}: larger than the allowed {limit} bytes")
    return data


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, by its name, by a link, or as another name of a file there."""
    place, here = path.resolve(), folder.resolve()
    if here in place.parents:
        return True
    try:
        found = place.stat()
        return any(os.path.samestat(found, other.stat()) for other in here.iterdir())
    except OSError:
        return False


def write_new(path: Path, data: bytes, *, outside: str, mode: int = 0o644) -> None:
    """Put `data` where a person wants it.

    Args:
        path: What is not there yet; its folder must exist.
        data: The whole content.
        outside: Name of the folder of a store, in which only the store writes.
        mode: Permissions of the file.

    Raises:
        ConfigError: Something is there, it would lie in a store, or the disk is full, read-only or failing.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path}: exists already")
    if outside in path.parent.resolve().parts:
        raise ConfigError(f"{path}: lies in the store of a project, where nobody else writes")
    write_atomic(path, data, mode=mode)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` so that a crash at any instant leaves the old file or the new one.

    Args:
        path: Target; its folder must exist. A link at `path` is replaced, not followed.
        data: The whole content.
        mode: Permissions of the new file, whatever the umask.

    Raises:
        ConfigError: The disk is full, read-only or failing; the old file is untouched.
    """
    write_blocks(path, [data], mode)


def file_digest(path: Path) -> Sha256:
    """SHA-256 of a file's content, read in blocks.

    Raises:
        IntegrityError: The file is missing or cannot be read, or is larger than any of ours: a hole of a
            terabyte takes no space, and hours.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise cannot_read(path, error) from error
    if size > MAX_FILE:
        raise IntegrityError(f"{path}: {size} bytes, allowed {MAX_FILE}")
    sha = hashlib.sha256()
    for block in read_blocks(path):
        sha.update(block)
    return Sha256(sha.hexdigest())


def unfinished(folder: Path) -> list[Path]:
    """What is temporary anywhere below `folder`: of a writer at work, or of one that was killed."""
    found = sorted(folder.rglob(f"{TEMPORARY}*"))
    outer = set(found)
    return [path for path in found if outer.isdisjoint(path.parents)]


def remove_path(path: Path) -> None:
    """Remove whatever has this name: a file, a link, a pipe, a folder with all that is in it, or nothing.

    Raises:
        OSError: It cannot be removed.
    """
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def make_folder(path: Path, mode: int) -> None:
    """Make a folder, and what is missing above it: whatever the umask, others may do no more than `mode`.

    Raises:
        OSError: The disk refuses.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=mode, exist_ok=True)


def may_write(path: Path) -> bool:
    """Whether this user may change a file and what lies beside it: not on a read-only disk, for one."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def require_plain(folder: Path) -> None:
    """Refuse a folder in which a name leads elsewhere: what is written below it stays below it.

    What is temporary is passed over, a folder too: nothing is read or written through it.

    Raises:
        IntegrityError: It, or something below it, is neither a folder nor a regular file.
        ConfigError: A folder cannot be read.
    """
    todo = [folder]
    if folder.is_symlink():
        raise IntegrityError(f"{folder}: a link; allowed are folders and regular files")
    while todo:
        here = todo.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        found = "a link" if entry.is_symlink() else "something special"
                        raise IntegrityError(f"{entry.path}: {found}; allowed are folders and regular files")
        except FileNotFoundError:  # a writer has just removed it
            continue
        except OSError as error:
            raise ConfigError(f"cannot read {here}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut.

    Raises:
        ConfigError: The disk fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # The rename has happened, so "nothing was changed" would be a lie here.
        raise ConfigError(
            f"cannot force {folder} to the disk: {error.strerror}; "
            "its files are whole, but a power cut may bring back older ones"
        ) from error


def read_blocks(path: Path, *, skip: int = 0) -> Iterator[bytes]:
    """The bytes of a file, block by block, but for the first `skip`.

    Raises:
        IntegrityError: It cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(skip)
            yield from iter(lambda: file.read(BLOCK_BYTES), b"")
    except OSError as error:
        raise cannot_read(path, error) from error


def write_blocks(path: Path, blocks: Iterable[bytes], mode: int) -> None:
    """Like `write_atomic`, for content that comes block by block."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        with open(handle, "wb") as file:
            file.writelines(blocks)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # After a rename nothing has this name any more, and that is no error.
        with suppress(OSError):
            os.unlink(temporary)
    sync_folder(path.parent)


def cannot_read(
    path: Path, error: OSError, otherwise: type[QmuEdgeError] = IntegrityError, hint: str = ""
) -> QmuEdgeError:
    """What to raise when a file could not be read: want of permission says nothing against the file."""
    if isinstance(error, PermissionError):
        return ConfigError(f"{path}: {error.strerror}: it is another user's, or closed to this one")
    return otherwise(f"{path}: cannot be read: {error.strerror}{hint}")


def cannot_write(path: Path, error: OSError) -> ConfigError:
    """What to raise when nothing could be written."""
    return ConfigError(f"cannot write {path}: {error.strerror}; nothing was changed")
