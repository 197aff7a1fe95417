"""Receipts that a project issues, without the work that they are about."""

from dataclasses import asdict
from pathlib import Path

from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.store.ledger.states import Pointer
from tests.receipt.test_receipt import made
from tests.store.ledger.contents import RECEIVED


def issue(root: Path, number: int) -> bytes:
    """Receive a request and issue a receipt for it."""
    with opened(root, Progress()) as project, project.locked():
        ledger, name = project.ledger, f"request {number}"
        ledger.receive(name, sha256_of(name.encode()), **RECEIVED)
        ledger.start_step(name, "run", "receipted")
        said = asdict(ledger.standing_at(name, "run", "receipted"))
        previous = ledger.current(Pointer.RECEIPT)
        data = made(project.signing_key, ledger=said, previous=previous, batch={"requests": 1, "forget": 0})
        digest = project.store.put_bytes(data)
        ledger.commit_release(name, checkpoint=None, release=None, receipt=digest)
        return data
