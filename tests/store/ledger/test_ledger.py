"""The ledger says what happened, once, in order, and notices whoever changes it from outside."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import BusyError, ConfigError, IntegrityError, LedgerError, RequestError
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, State
from tests.store.ledger.contents import RECEIVED, fill, make_index, outside, sha

DIE = """
import os, signal, sys
from pathlib import Path
from qmu_edge.store.ledger.ledger import Ledger

class Dying(Ledger):
    def _point(self, name, digest):
        if name == "release":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._point(name, digest)

ledger = Dying.open(Path(sys.argv[1]))
ledger.commit_release("req-1", checkpoint="a" * 64, release="b" * 64, receipt="c" * 64)
"""


# The file


def test_a_new_ledger_is_sound_private_and_durable(tmp_path: Path, ledger: Ledger) -> None:
    assert ledger.problems() == []
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.rows("PRAGMA journal_mode") == [("wal",)]
    assert ledger.rows("PRAGMA synchronous") == [(2,)]
    assert ledger.rows("PRAGMA foreign_keys") == [(1,)]
    assert ledger.rows("PRAGMA secure_delete") == [(1,)]
    assert ledger.rows("PRAGMA user_version") == [(1,)]


def test_a_snapshot_is_of_one_instant_and_keeps_no_writer_waiting(ledger: Ledger) -> None:
    with Ledger.open(ledger.path) as reader:
        with reader.snapshot():
            assert reader.meta("word") is None
            ledger.set_meta("word", 1)
            assert reader.meta("word") is None
        assert reader.meta("word") == 1


def test_everything_survives_reopening(ledger: Ledger) -> None:
    fill(ledger)
    ledger.close()
    with Ledger.open(ledger.path) as again:
        assert again.problems() == []
        assert again.current(Pointer.RELEASE) == sha("r")
        assert again.meta("dataset") == {"name": "cifar10", "digest": sha("d")}
        assert len(again.steps("req-1")) == 2


def test_create_never_replaces_and_finishes_what_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    with pytest.raises(LedgerError, match="application_id is 0"):
        Ledger.open(path)
    Ledger.create(path).close()
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(path)
    with pytest.raises(ConfigError, match="No such file"):
        Ledger.create(tmp_path / "absent" / "ledger.db")


def test_open_refuses_what_is_no_ledger_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(IntegrityError, match="no such file"):
        Ledger.open(path)
    path.write_bytes(np.random.default_rng(0).bytes(8192))
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open(path)
    path.unlink()
    outside(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="application_id"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(path)
    assert path.read_bytes() == before


def test_a_newer_ledger_is_refused(ledger: Ledger) -> None:
    ledger.close()
    outside(ledger.path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match="user_version is 2; allowed: 1"):
        Ledger.open(ledger.path)


def test_a_full_disk_is_said_and_changes_nothing(ledger: Ledger) -> None:
    ((pages,),) = ledger.rows("PRAGMA page_count")
    ledger.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ConfigError, match="full; nothing was changed"):
        ledger.set_meta("big", "x" * 100_000)
    assert ledger.meta("big") is None
    assert ledger.problems() == []


def test_a_read_only_ledger_is_said(ledger: Ledger) -> None:
    ledger.rows("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match="readonly"):
        ledger.set_meta("a", 1)


def test_readers_are_not_blocked_and_a_second_writer_is_told(ledger: Ledger) -> None:
    fill(ledger)
    with Ledger.open(ledger.path) as second:
        second.rows("PRAGMA busy_timeout = 0")
        with ledger.change():
            assert second.current(Pointer.RELEASE) == sha("r")
            with pytest.raises(BusyError, match="locked"):
                second.set_meta("a", 1)
        second.set_meta("a", 1)
    assert ledger.meta("a") == 1


def test_a_killed_process_leaves_the_old_state(ledger: Ledger) -> None:
    fill(ledger)
    done = subprocess.run([sys.executable, "-c", DIE, str(ledger.path)], check=False)
    assert done.returncode == -9
    assert ledger.current(Pointer.CHECKPOINT) == sha("c")
    assert ledger.problems() == []
    assert ledger.rows("SELECT count(*) FROM receipts") == [(1,)]


# Samples


def test_the_index_comes_back_as_it_was(ledger: Ledger) -> None:
    index = make_index()
    assert not ledger.has_samples()
    with pytest.raises(LedgerError, match="no sample index"):
        ledger.read_samples()
    ledger.write_samples(index)
    back = ledger.read_samples()
    assert ledger.has_samples()
    for name in ("ids", "digests", "subjects", "class_names"):
        assert list(getattr(back, name)) == list(getattr(index, name))
    for name in ("labels", "splits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(index, name), strict=True)


def test_the_index_is_written_once(ledger: Ledger) -> None:
    ledger.write_samples(make_index())
    head = ledger.head()
    ledger.write_samples(make_index())
    assert ledger.head() == head
    with pytest.raises(LedgerError, match="other samples"):
        ledger.write_samples(make_index(5))


# Requests and steps


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


# Tombstones, current, meta


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


def test_current_and_meta(ledger: Ledger) -> None:
    assert ledger.current(Pointer.CHECKPOINT) is None
    ledger.set_current(Pointer.CHECKPOINT, sha("c"))
    assert ledger.current(Pointer.CHECKPOINT) == sha("c")
    with pytest.raises(LedgerError, match="CHECK"):
        ledger.set_current(Pointer.CHECKPOINT, "short")
    assert ledger.meta("key") is None
    ledger.set_meta("key", [1, {"a": None}])
    ledger.set_meta("key", {"b": 0.25})
    assert ledger.meta("key") == {"b": 0.25}
    with pytest.raises(LedgerError, match="meta 'key' cannot be JSON"):
        ledger.set_meta("key", float("inf"))
