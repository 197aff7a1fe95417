"""How a ledger's file is opened: to write, or only to read where its user may not write.

A read-only project is an auditor's, a backup that was put back, a volume mounted read-only. SQLite keeps its
newest pages in a write-ahead log and wants to write beside it, so the case decides:

    somebody else writes     the log's index is there, and is read together with the log
    a log without an index   as a backup of a running project has it: file and log are read as a copy
    no log                   the file is all there is, and nobody changes it

A journal of a transaction over several files names another file, and SQLite removes that when it opens the
ledger. There is never one of ours: whoever prepared a project could have any file of its user removed.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.files import may_write

_NAMES_ANOTHER: Final = bytes.fromhex("d9d505f920a163d7")  # the last bytes of such a journal


def address(path: Path, aside: ExitStack) -> str:
    """What SQLite is given for a ledger; opening never makes a file.

    Args:
        path: Of the ledger.
        aside: Takes the folder of the copy, if there has to be one.

    Raises:
        ConfigError: This user may not read it.
        LedgerError: The journal beside it names another file.
    """
    path = path.absolute()
    _require_own(path.with_name(f"{path.name}-journal"))
    log, index = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
    if may_write(path):
        return f"{path.as_uri()}?mode=rw"
    if not os.access(path, os.R_OK):
        raise ConfigError(f"ledger {path}: permission denied: it is another user's, or closed to this one")
    if not log.exists() or not log.stat().st_size:
        return f"{path.as_uri()}?mode=ro&immutable=1"
    if index.exists():
        return f"{path.as_uri()}?mode=ro"
    folder = Path(aside.enter_context(TemporaryDirectory(prefix="qmu-edge-ledger-")))
    for file in (path, log):
        shutil.copyfile(file, folder / file.name)
    return f"{(folder / path.name).as_uri()}?mode=rw"


def _require_own(journal: Path) -> None:
    if not os.path.lexists(journal):
        return
    if journal.is_symlink() or not journal.is_file():
        raise LedgerError(f"ledger {journal}: not a regular file")
    try:
        with journal.open("rb") as file:
            file.seek(max(0, journal.stat().st_size - len(_NAMES_ANOTHER)))
            names_another = file.read() == _NAMES_ANOTHER
    except OSError as error:
        raise ConfigError(f"ledger {journal}: cannot be read: {error.strerror}") from None
    if names_another:
        raise LedgerError(
            f"ledger {journal}: names another file, which would be removed; no ledger has such a journal. "
            "Look at it, then move it away"
        )
