"""What ledgers are filled with, and what is done to them from outside."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.data.index import SampleIndex
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, State

RECEIVED: dict[str, Any] = {
    "form": "opendsr",
    "regulation": "gdpr",
    "received": "2026-11-02T15:04:11Z",
    "due": "2026-12-02T15:04:11Z",
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_index(n: int = 6) -> SampleIndex:
    return SampleIndex.of(
        ids=tuple(f"img/{i}.png" for i in range(n)),
        digests=tuple(sha(str(i)) for i in range(n)),
        labels=np.arange(n, dtype=np.int64) % 3,
        splits=(np.arange(n) % 3).astype(np.int8),
        subjects=tuple(sha(f"person {i % 2}") if i % 3 else "" for i in range(n)),
        class_names=("zebra", "ape", "cat"),
    )


def fill(ledger: Ledger) -> None:
    """One of everything."""
    ledger.write_samples(make_index())
    ledger.receive("req-1", sha("req-1"), **RECEIVED)
    ledger.start_step("req-1", "", "resolved")
    ledger.finish_step("req-1", "", "resolved", {"count": 2})
    ledger.start_step("req-1", sha("run"), "unlearned")
    ledger.add_tombstones("req-1", ["img/0.png", "img/1.png"], [sha("0"), sha("1")])
    ledger.commit_release("req-1", checkpoint=sha("c"), release=sha("r"), receipt=sha("receipt"))
    ledger.set_outcome("req-1", State.COMPLETED, Outcome.UNLEARNED)
    ledger.set_meta("dataset", {"name": "cifar10", "digest": sha("d")})


def outside(path: Path, *statements: str) -> None:
    """What somebody with another SQLite tool does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
