"""One process at a time writes to a store.

Trap: the lock belongs to a process *and to what it forks*; a forked worker that outlives its parent keeps
the store locked. It is an flock, so keep the store off network file systems.
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from qmu_edge.errors import BusyError, ConfigError
from qmu_edge.io.files import remove_path, require_plain, unfinished, write_atomic


@contextmanager
def locked(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Be the only process that writes to the store in `folder`.

    The lock is the kernel's, so it is free the moment its holder dies, however it dies. The
    file "holder" beside it only tells people whom they wait for; no decision is made on it.
    Unfinished files in the folder, whose writers are dead, are removed first.

    Args:
        folder: The store; it must exist.
        wait_s: Seconds to wait for another process before giving up.

    Raises:
        BusyError: It is locked already, perhaps by this process.
        ConfigError: The folder is missing or cannot be written to.
        IntegrityError: A link in it leads elsewhere; opening the lock alone would empty what is there.
    """
    if not folder.is_dir():
        raise ConfigError(f"no store at {folder}: the folder does not exist")
    require_plain(folder)
    holder = folder / "holder"
    lock = FileLock(folder / "lock", timeout=max(wait_s, 0.0), mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        who = lock_holder(folder) or "a process that has not written its name"
        raise BusyError(f"store {folder} is locked by {who}") from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot lock {folder / 'lock'}: {reason}") from error
    try:
        with suppress(OSError):
            (folder / "lock").chmod(0o600)  # of older projects: whoever may open it can hold it
        _sweep(folder)
        write_atomic(holder, _who().encode())
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def lock_holder(folder: Path) -> str | None:
    """Who has locked the store in `folder`, for people: "pid 7, host h, ..."; None when nobody says so.

    A process that was killed leaves its name behind; on this machine that is recognised.
    """
    try:
        with (folder / "holder").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(1000).splitlines()
    except OSError:
        return None
    here = f"host {platform.node()}" in lines
    return None if here and not _lives(lines[0]) else ", ".join(lines)


def _who() -> str:
    # The program's name alone: its arguments may name a person.
    return (
        f"pid {os.getpid()}\nhost {platform.node()}\ncommand {Path(sys.argv[0]).name}\n"
        f"since {datetime.now(UTC).isoformat(timespec='seconds')}\n"
    )


def _lives(line: str) -> bool:
    """Whether the process of a line "pid 7" runs on this machine; True when in doubt."""
    try:
        os.kill(int(line.removeprefix("pid ")), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def _sweep(folder: Path) -> None:
    for path in unfinished(folder):
        try:
            remove_path(path)
        except OSError as error:
            raise ConfigError(f"cannot remove {path}: {error.strerror or error}") from error
