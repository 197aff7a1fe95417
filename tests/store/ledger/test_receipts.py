"""Receipts and releases: what is current is switched whole."""

from typing import Any

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from tests.store.ledger.contents import fill, sha


def test_a_release_is_switched_whole_or_not_at_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ledger)
    new = {"checkpoint": sha("c2"), "release": sha("r2"), "receipt": sha("receipt2")}
    real = Ledger._point

    def fail(self: Ledger, name: Any, digest: str | None) -> None:
        if name == "receipt":
            raise KeyboardInterrupt
        real(self, name, digest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_point", fail)
        with pytest.raises(KeyboardInterrupt):
            ledger.commit_release("req-1", **new)
    assert ledger.current(Pointer.CHECKPOINT) == sha("c")
    assert ledger.problems() == []
    ledger.commit_release(None, **new)
    head = ledger.head()
    ledger.commit_release(None, **new)
    assert ledger.head() == head
    assert ledger.current(Pointer.CHECKPOINT) == sha("c2")
    assert ledger.rows("SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq") == [
        (sha("receipt"), None),
        (sha("receipt2"), sha("receipt")),
    ]
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.commit_release(None, checkpoint=None, release=None, receipt=sha("receipt"))
    ledger.commit_release(None, checkpoint=sha("c3"), release=None, receipt=None)
    assert ledger.current(Pointer.RELEASE) == sha("r2")
