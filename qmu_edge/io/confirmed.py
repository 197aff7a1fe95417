"""What this user lets run on this machine: digests, as empty files below XDG_STATE_HOME (~/.local/state)."""

import os
from contextlib import suppress
from pathlib import Path

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import make_folder, write_atomic


def note(what: str, digest: Sha256) -> None:
    """Note that this user has confirmed something of the kind `what`, a name of a folder.

    Raises:
        ConfigError: Nothing can be noted.
    """
    folder = _folder(what)
    try:
        make_folder(folder, 0o700)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; XDG_STATE_HOME names another") from None
    write_atomic(folder / digest, b"", mode=0o600)


def is_noted(what: str, digest: Sha256) -> bool:
    """Whether this very user has confirmed it: under sudo the folder may be somebody else's."""
    try:
        return (_folder(what) / digest).lstat().st_uid == os.geteuid()
    except OSError:
        return False


def forget(what: str, digest: Sha256) -> None:
    """Take a note back, where there is one."""
    with suppress(OSError):
        (_folder(what) / digest).unlink(missing_ok=True)


def _folder(what: str) -> Path:
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    except RuntimeError:
        raise ConfigError("this user has no home folder: set XDG_STATE_HOME to a folder of theirs") from None
    return Path(state) / "qmu-edge" / what
