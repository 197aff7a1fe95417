"""The hidden folder in which a project is made, and what of it outlives a kill: the images decoded so far.

Another `init` in the same place goes on with them (`qmu_edge.data.cache`), if this user has begun them on
this machine: a token that lies beside them is noted where confirmations are. Images that came with somebody
else's folder would be registered in the place of one's own.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from qmu_edge.data.cache import journal_of
from qmu_edge.errors import ConfigError
from qmu_edge.io import confirmed
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import remove_path, write_atomic
from qmu_edge.project.project import KEYS, STORE
from qmu_edge.project.samples import IMAGES

STAGING: Final = f"{STORE}.new"
_TOKEN: Final = "cache/token"
_TOKEN_BYTES: Final = 32
_NOTED: Final = "decodings"
_FOLDERS: Final = ("objects", KEYS, "cache", "work", "releases")


@contextmanager
def staging_in(root: Path) -> Iterator[Path]:
    """A folder for a new store; after an error nothing is left of it, after an interrupt the decoded images.

    Raises:
        OSError: It cannot be made, or something of another kind has its name.
    """
    folder = root / STAGING
    try:
        _emptied(folder)
        for name in _FOLDERS:
            if not (folder / name).exists():
                (folder / name).mkdir(mode=0o755 if name == "releases" else 0o700)
        _begin(folder)
        yield folder
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and journal_of(folder / IMAGES).exists():
            raise
        forget_decoding(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def forget_decoding(folder: Path) -> None:
    """What leads to decoded images that are not whole; they are whole now, or not wanted."""
    with suppress(OSError):
        confirmed.forget(_NOTED, sha256_of((folder / _TOKEN).read_bytes()))
    for path in (folder / _TOKEN, journal_of(folder / IMAGES)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _emptied(folder: Path) -> None:
    """Only what this user has decoded into it is left."""
    kept = {folder / _TOKEN, folder / IMAGES, journal_of(folder / IMAGES)}
    if not _is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)  # whatever still has this name is not ours, a link for one
        return
    cache = folder / "cache"
    for path in (*folder.iterdir(), *cache.iterdir()):
        if path not in kept | {cache}:
            remove_path(path)


def _is_ours(folder: Path) -> bool:
    """Whether this user has begun to decode into it; nothing there is a link."""
    try:
        for path, kind in (
            (folder, stat.S_ISDIR), (folder / "cache", stat.S_ISDIR), (folder / _TOKEN, stat.S_ISREG),
            (folder / IMAGES, stat.S_ISREG), (journal_of(folder / IMAGES), stat.S_ISREG),
        ):  # fmt: skip
            found = path.lstat()
            if not kind(found.st_mode) or found.st_uid != os.geteuid():
                return False
        if (folder / _TOKEN).lstat().st_size != _TOKEN_BYTES:
            return False
        return confirmed.is_noted(_NOTED, sha256_of((folder / _TOKEN).read_bytes()))
    except (OSError, ConfigError):
        return False


def _begin(folder: Path) -> None:
    """Note that what is decoded into it is this user's; where nothing can be noted, all begins anew."""
    if (folder / _TOKEN).exists():
        return
    token = secrets.token_bytes(_TOKEN_BYTES)
    try:
        confirmed.note(_NOTED, sha256_of(token))
    except ConfigError:
        return
    write_atomic(folder / _TOKEN, token, mode=0o600)
