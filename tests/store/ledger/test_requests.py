"""Requests, their steps and their tombstones: each once, in order."""

import pytest

from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, State
from tests.store.ledger.contents import RECEIVED, sha


def test_the_same_request_twice_is_one_and_another_body_is_a_conflict(ledger: Ledger) -> None:
    assert ledger.receive("req-1", sha("body"), **RECEIVED)
    head = ledger.head()
    assert not ledger.receive("req-1", sha("body"), **RECEIVED)
    with pytest.raises(RequestError, match=r"req-1: conflict.*one id is one document"):
        ledger.receive("req-1", sha("other"), **RECEIVED)
    assert ledger.head() == head
    (row,) = ledger.requests()
    assert row == ledger.request("req-1")
    assert (row.digest, row.state, row.outcome) == (sha("body"), "received", None)
    assert ledger.request("req-2") is None


def test_an_outcome_is_kept_and_needs_a_request(ledger: Ledger) -> None:
    ledger.receive("req-1", sha("body"), **{**RECEIVED, "regulation": None, "due": None})
    ledger.set_outcome("req-1", State.COMPLETED, Outcome.NO_MATCH)
    row = ledger.request("req-1")
    assert row is not None
    assert (row.state, row.outcome, row.due) == ("completed", "no_match", None)
    with pytest.raises(LedgerError, match="no request 'req-2'"):
        ledger.set_outcome("req-2", State.COMPLETED, None)


def test_a_step_is_started_failed_started_again_and_done(ledger: Ledger) -> None:
    ledger.receive("r", sha("r"), **RECEIVED)
    run = sha("run")
    assert ledger.step("r", run, "unlearned") is None
    ledger.start_step("r", run, "unlearned")
    ledger.fail_step("r", run, "unlearned", "diverged")
    failed = ledger.step("r", run, "unlearned")
    assert failed is not None
    assert (failed.status, failed.detail) == ("failed", {"reason": "diverged"})
    ledger.start_step("r", run, "unlearned")
    ledger.start_step("r", run, "unlearned")  # as after a kill
    started = ledger.step("r", run, "unlearned")
    assert started is not None
    assert (started.status, started.finished, started.detail) == ("started", None, {})
    ledger.finish_step("r", run, "unlearned", {"loss": 0.5, "ids": [1, 2]})
    head = ledger.head()
    ledger.finish_step("r", run, "unlearned", {"loss": 0.5, "ids": [1, 2]})
    assert ledger.head() == head
    (done,) = ledger.steps("r")
    assert (done.seq, done.status, done.detail) == (1, "done", {"loss": 0.5, "ids": [1, 2]})


def test_steps_end_only_when_started_and_once(ledger: Ledger) -> None:
    ledger.receive("r", sha("r"), **RECEIVED)
    with pytest.raises(LedgerError, match="no request 'x'"):
        ledger.start_step("x", "", "resolved")
    with pytest.raises(LedgerError, match="is not known; only a started step ends as done"):
        ledger.finish_step("r", "", "resolved", {})
    ledger.start_step("r", "", "resolved")
    with pytest.raises(LedgerError, match="detail cannot be JSON"):
        ledger.finish_step("r", "", "resolved", {"loss": float("nan")})
    ledger.finish_step("r", "", "resolved", {"n": 1})
    with pytest.raises(LedgerError, match="is done"):
        ledger.finish_step("r", "", "resolved", {"n": 2})
    with pytest.raises(LedgerError, match="is done"):
        ledger.fail_step("r", "", "resolved", "late")
    with pytest.raises(LedgerError, match="is done"):
        ledger.start_step("r", "", "resolved")


def test_attempts_are_kept_apart(ledger: Ledger) -> None:
    ledger.receive("r", sha("r"), **RECEIVED)
    for run in (sha("ssd"), sha("retrain")):
        ledger.start_step("r", run, "unlearned")
        ledger.finish_step("r", run, "unlearned", {})
    assert [row.run for row in ledger.steps("r")] == [sha("ssd"), sha("retrain")]


def test_tombstones_stay_and_do_not_double(ledger: Ledger) -> None:
    ledger.receive("r", sha("r"), **RECEIVED)
    ledger.receive("s", sha("s"), **RECEIVED)
    assert ledger.add_tombstones("r", ["a", "b"], [sha("a"), sha("b")]) == 2
    head = ledger.head()
    assert ledger.add_tombstones("r", ["a", "b"], [sha("a"), sha("b")]) == 0
    assert ledger.head() == head
    assert ledger.add_tombstones("s", ["b", "c"], [sha("b"), sha("a")]) == 1
    assert ledger.tombstones() == {"a", "b", "c"}
    assert {digest for _, digest in ledger.barred()} == {sha("a"), sha("b")}
    assert ledger.add_tombstones("s", ["a"], [sha("a, cropped")]) == 1  # one id, new pixels
    assert ledger.barred() >= {("a", sha("a")), ("a", sha("a, cropped"))}
    assert ledger.problems() == []
    with pytest.raises(LedgerError, match="1 ids, 0 digests"):
        ledger.add_tombstones("r", ["d"], [])
    with pytest.raises(LedgerError, match="no request"):
        ledger.add_tombstones("x", ["d"], [sha("d")])
