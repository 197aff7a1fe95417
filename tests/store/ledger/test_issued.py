"""A ledger that was put back, cut or written anew is told by any receipt from after that point."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.receipt import receipt
from qmu_edge.receipt.statement import StatementV2
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.issued import problems, verify_issued
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.receipts import Standing
from qmu_edge.store.ledger.states import Pointer
from tests.receipt.test_receipt import made, make_v2, sha
from tests.store.ledger.contents import RECEIVED, make_index

REQUESTS = ("first", "second", "third")
INDEX = make_index(18)  # every third one is of training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger.create(folder / "ledger.db") as ledger:
        keys.renew(folder / "keys", ledger)
        ledger.write_samples(INDEX)
        yield ledger


def serve(ledger: Ledger, number: int, **changes: Any) -> bytes:
    """A request from its tombstones, two of training, to its receipt."""
    name, run = REQUESTS[number], sha(REQUESTS[number].encode())
    ledger.receive(name, run, **RECEIVED)
    chosen = [6 * number, 6 * number + 1, 6 * number + 3]
    ledger.add_tombstones(name, [INDEX.ids[i] for i in chosen], [INDEX.digests[i] for i in chosen])
    ledger.start_step(name, run, "receipted")
    said = ledger.standing_at(name, run, "receipted")
    fields: dict[str, Any] = {
        "previous": ledger.current(Pointer.RECEIPT), "batch": {"requests": 1, "forget": 2},
        "split": {"digest": run, "counts": {"forget": 2}},
        "ledger": {"events": said.events, "head": said.head, "tombstones": said.tombstones},
    }  # fmt: skip
    data = made(keys.signing_key(ledger.path.parent / "keys", ledger), **{**fields, **changes})
    ledger.commit_release(name, checkpoint=None, release=None, receipt=sha(data))
    ledger.finish_step(name, run, "receipted", {})
    return data


def said(ledger: Ledger, *receipts: bytes) -> list[str]:
    return [*problems(ledger, [receipt.loads(data, "r") for data in receipts])]


def test_what_a_receipt_states_is_the_same_after_a_kill(ledger: Ledger) -> None:
    head, events = ledger.head(), ledger.event_count()
    ledger.receive("first", sha(b"first"), **RECEIVED)
    before = ledger.head()
    ledger.start_step("first", "run", "receipted")
    stated = ledger.standing_at("first", "run", "receipted")
    assert stated == Standing(events + 1, before, 0) and before != head
    ledger.add_tombstones("first", ["a"], [sha(b"a")])
    ledger.start_step("first", "run", "receipted")  # again, after a kill
    assert ledger.standing_at("first", "run", "receipted") == stated
    with pytest.raises(LedgerError, match="was never started"):
        ledger.standing_at("first", "run", "verified")


def test_a_ledger_that_went_on_holds(ledger: Ledger) -> None:
    receipts = [serve(ledger, number) for number in range(3)]
    assert said(ledger, *receipts) == []
    for data in receipts:
        assert verify_issued(ledger, data)[2].endswith("as the receipt says")


def test_receipts_of_version_2_say_nothing_of_the_ledger(ledger: Ledger) -> None:
    key = keys.signing_key(ledger.path.parent / "keys", ledger)
    data = receipt.sign(StatementV2.model_validate(make_v2()), key)
    ledger.commit_release(None, checkpoint=None, release=None, receipt=sha(data))
    assert "is older than the field" in verify_issued(ledger, data)[-1]
    assert said(ledger, data) == ["0 deleted training images; its receipts and events say 40"]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_ledger_put_back_from_a_backup_is_told_by_a_later_receipt(
    ledger: Ledger, folder: Path, rebuilt: bool
) -> None:
    first = serve(ledger, 0)
    ledger.forget_deleted_pages()
    shutil.copy(ledger.path, folder / "backup.db")
    later = serve(ledger, 1)
    with Ledger.open(folder / "backup.db") as earlier:
        if rebuilt:  # by the same events again: only their times differ
            serve(earlier, 1)
            serve(earlier, 2)
        assert earlier.problems() == [] and said(earlier, first) == []
        problem, *_ = said(earlier, first, later)
        assert "put back, cut or written anew" in problem
        with pytest.raises(LedgerError, match="put back, cut or written anew"):
            verify_issued(earlier, later)
        assert verify_issued(earlier, first)


def test_tombstones_that_are_gone_are_told(ledger: Ledger) -> None:
    """As a trigger did it: the chain vouches for what was left."""
    data = serve(ledger, 0)
    ledger.rows("DELETE FROM tombstones WHERE sample_id = ?", INDEX.ids[0])
    (request,) = ledger.requests()
    with ledger.change():
        ledger.append("tombstones", request.seq, count=0)
    assert ledger.problems() == []
    assert said(ledger, data) == [
        "2 tombstones, a receipt states 3",
        "1 deleted training images; its receipts and events say 2",
        "2 tombstones; its receipts and events say 3",
    ]


def test_what_cannot_be_noticed_is_that_everything_is_older(ledger: Ledger, folder: Path) -> None:
    """The page says so: without a receipt from after that point, nothing tells."""
    first = serve(ledger, 0)
    ledger.forget_deleted_pages()
    shutil.copy(ledger.path, folder / "backup.db")
    serve(ledger, 1)
    with Ledger.open(folder / "backup.db") as earlier:
        assert said(earlier, first) == [] and earlier.problems() == []
