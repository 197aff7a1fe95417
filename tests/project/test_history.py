"""When things changed, told by the events of a ledger."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.project.history import NEVER, History
from qmu_edge.store.ledger import chain
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, State, Step
from tests.store.ledger.contents import RECEIVED, sha


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Its events happen at 000, 001, 002 and so on."""
    ticks = count()
    monkeypatch.setattr(chain, "now", lambda: f"{next(ticks):03}")
    with Ledger.create(tmp_path / "ledger.db") as made:
        yield made


def test_what_was_current_was_so_until_the_next(ledger: Ledger) -> None:
    for text in "abc":
        ledger.set_current(Pointer.RELEASE, sha(text))
    ledger.set_current(Pointer.CHECKPOINT, sha("d"))
    history = History(ledger)
    assert history.current() == {Pointer.RELEASE: sha("c"), Pointer.CHECKPOINT: sha("d")}
    assert [*history.superseded(Pointer.RELEASE)] == [(sha("a"), "001"), (sha("b"), "002")]
    assert [*history.superseded(Pointer.CHECKPOINT)] == [*history.superseded(Pointer.RECEIPT)] == []


def test_a_note_has_the_time_of_its_last_writing(ledger: Ledger) -> None:
    for key in ("a", "b", "a"):
        ledger.set_meta(key, 1)
    history = History(ledger)
    assert (history.noted("a"), history.noted("b")) == ("002", "001")


def test_what_an_altered_ledger_names_and_does_not_hold_is_an_error_of_the_ledger(ledger: Ledger) -> None:
    ledger.receive("asked", sha("asked"), **RECEIVED)
    history = History(ledger)
    assert history.request("asked").request_id == "asked"
    for look in (lambda: history.request("other"), lambda: history.noted("other")):
        with pytest.raises(LedgerError, match="names what it does not hold: qmu-edge doctor"):
            look()


def test_a_request_is_closed_by_its_receipt_or_without_one(ledger: Ledger) -> None:
    for name in ("served", "denied", "open"):
        ledger.receive(name, sha(name), **RECEIVED)  # 000 to 002
    ledger.set_outcome("denied", State.COMPLETED, Outcome.DENIED)  # 003
    history = History(ledger)
    served, denied, waiting = history.requests
    assert [history.closed(r) for r in history.requests] == ["", "003", ""]
    assert history.oldest_open == "000"
    ledger.start_step("served", sha("run"), Step.RECEIPTED)
    ledger.commit_release("served", checkpoint=None, release=None, receipt=sha("receipt"))
    history = History(ledger)
    ((at, _, body),) = ledger.events("current")
    assert body["key"] == Pointer.RECEIPT
    assert history.fulfilled(served) == history.closed(served) == at
    assert (history.fulfilled(denied), history.fulfilled(waiting)) == ("", "")
    assert history.oldest_open == "002"
    ledger.set_outcome("open", State.COMPLETED, Outcome.WITHDRAWN)
    assert History(ledger).oldest_open == NEVER


def test_requests_of_one_attempt_are_fulfilled_together_with_the_last(ledger: Ledger) -> None:
    for name in ("one", "two"):
        ledger.receive(name, sha(name), **RECEIVED)
        ledger.start_step(name, sha("run"), Step.RECEIPTED)
    for name in ("one", "two"):
        ledger.commit_release(name, checkpoint=None, release=None, receipt=sha(f"receipt of {name}"))
    history = History(ledger)
    last = max(at for at, _, _ in ledger.events("current"))
    assert [history.fulfilled(r) for r in history.requests] == [last, last]
