"""Copies of all receipts in a folder outside of the project, such as one under version control.

They tell the project that has served the requests before from one that was made anew, put back or swapped:
each must be the project's own of its number. An empty folder tells nothing, so it is no place to go on from.
"""

import re
from pathlib import Path
from typing import Final, TypedDict

from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import make_folder, read_regular, write_new
from qmu_edge.io.json import MAX_BYTES
from qmu_edge.project.project import STORE
from qmu_edge.store.ledger.issued import verify_issued
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.objects import ObjectStore

_NAME: Final = re.compile(r"0*([0-9]{1,9})\.json", re.ASCII)


class KeptReceipts(TypedDict):
    """How many receipts a folder holds now, and the names of those that were added."""

    folder: str
    receipts: int
    added: list[str]


def keep(folder: Path, ledger: Ledger, store: ObjectStore, *, begin: bool = False) -> KeptReceipts:
    """Add what is missing in a folder of receipts, once all that is there was found to be the project's.

    Args:
        folder: May be missing while the project has issued none.
        ledger: Of the project.
        store: Holds its receipts.
        begin: Whether an empty folder is filled, though the project has issued receipts.

    Raises:
        LedgerError: A receipt in it is not the project's, or there is none though there should be.
        ConfigError: It cannot be read or written.
    """
    issued = {row.seq: row.digest for row in ledger.receipts()}
    there = _numbered(folder)
    for number, path in sorted(there.items()):
        data = read_regular(path, limit=MAX_BYTES, error=LedgerError)
        if issued.get(number) != sha256_of(data):
            raise LedgerError(
                f"{path}: is no receipt of {ledger.path}, which has issued {len(issued)}, or not of this "
                "number: it is another project, or was put back"
            )
        if number == max(there):
            verify_issued(ledger, data)
    if issued and not there and not begin:
        raise LedgerError(
            f"{folder}: no receipt in it, and {ledger.path} has issued {len(issued)}: nothing shows that it "
            "is the project of the jobs before; if the folder is new, say --begin, once"
        )
    added = sorted(issued.keys() - there.keys())
    try:
        make_folder(folder, 0o755)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
    for number in added:
        write_new(folder / _name(number), store.get_bytes(issued[number]), outside=STORE)
    return {"folder": str(folder), "receipts": len(issued), "added": [*map(_name, added)]}


def _numbered(folder: Path) -> dict[int, Path]:
    """The receipts in a folder by their numbers; other files are nobody's business.

    Raises:
        LedgerError: Two names say the same number.
        ConfigError: It is no folder, or cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    found: dict[int, Path] = {}
    for name, match in ((name, _NAME.fullmatch(name)) for name in names):
        if match and found.setdefault(int(match[1]), folder / name).name != name:
            raise LedgerError(f"{folder}: {found[int(match[1])].name} and {name} say the same number")
    return found


def _name(number: int) -> str:
    return f"{number:06}.json"
