"""The ledger says what happened, once, in order, and notices whoever changes it from outside."""

import hashlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qmu_edge import chain
from qmu_edge.errors import BusyError, ConfigError, IntegrityError, LedgerError, RequestError
from qmu_edge.index import SampleIndex
from qmu_edge.ledger import Ledger

RECEIVED: dict[str, Any] = {
    "form": "opendsr",
    "regulation": "gdpr",
    "received": "2026-11-02T15:04:11Z",
    "due": "2026-12-02T15:04:11Z",
}

DIE = """
import os, signal, sys
from pathlib import Path
from qmu_edge.ledger import Ledger

class Dying(Ledger):
    def _point(self, name, digest):
        if name == "release":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._point(name, digest)

ledger = Dying.open(Path(sys.argv[1]))
ledger.commit_release("req-1", checkpoint="a" * 64, release="b" * 64, receipt="c" * 64)
"""


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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.db") as ledger:
        yield ledger


def fill(ledger: Ledger) -> None:
    """One of everything."""
    ledger.write_samples(make_index())
    ledger.receive("req-1", sha("req-1"), **RECEIVED)
    ledger.start_step("req-1", "", "resolved")
    ledger.finish_step("req-1", "", "resolved", {"count": 2})
    ledger.start_step("req-1", sha("run"), "unlearned")
    ledger.add_tombstones("req-1", ["img/0.png", "img/1.png"], [sha("0"), sha("1")])
    ledger.commit_release("req-1", checkpoint=sha("c"), release=sha("r"), receipt=sha("receipt"))
    ledger.set_outcome("req-1", "receipted", "unlearned")
    ledger.set_meta("dataset", {"name": "cifar10", "digest": sha("d")})


def outside(path: Path, *statements: str) -> None:
    """What somebody with another SQLite tool does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


# The file


def test_a_new_ledger_is_sound_private_and_durable(tmp_path: Path, ledger: Ledger) -> None:
    assert ledger.check() == []
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
        assert again.check() == []
        assert again.current("release") == sha("r")
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
    assert ledger.check() == []


def test_a_read_only_ledger_is_said(ledger: Ledger) -> None:
    ledger.rows("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match="readonly"):
        ledger.set_meta("a", 1)


def test_readers_are_not_blocked_and_a_second_writer_is_told(ledger: Ledger) -> None:
    fill(ledger)
    with Ledger.open(ledger.path) as second:
        second.rows("PRAGMA busy_timeout = 0")
        with ledger.change():
            assert second.current("release") == sha("r")
            with pytest.raises(BusyError, match="locked"):
                second.set_meta("a", 1)
        second.set_meta("a", 1)
    assert ledger.meta("a") == 1


def test_a_killed_process_leaves_the_old_state(ledger: Ledger) -> None:
    fill(ledger)
    done = subprocess.run([sys.executable, "-c", DIE, str(ledger.path)], check=False)
    assert done.returncode == -9
    assert ledger.current("checkpoint") == sha("c")
    assert ledger.check() == []
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
    ledger.set_outcome("req-1", "resolved", "no_match")
    row = ledger.request("req-1")
    assert row is not None
    assert (row.state, row.outcome, row.due) == ("resolved", "no_match", None)
    with pytest.raises(LedgerError, match="no request 'req-2'"):
        ledger.set_outcome("req-2", "resolved", None)


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
    assert ledger.tombstone_digests() == {sha("a"), sha("b")}
    assert ledger.add_tombstones("s", ["a"], [sha("a, cropped")]) == 1  # one id, new pixels
    assert ledger.tombstone_digests() == {sha("a"), sha("b"), sha("a, cropped")}
    assert ledger.check() == []
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
    assert ledger.current("checkpoint") == sha("c")
    assert ledger.check() == []
    ledger.commit_release(None, **new)
    head = ledger.head()
    ledger.commit_release(None, **new)
    assert ledger.head() == head
    assert ledger.current("checkpoint") == sha("c2")
    assert ledger.rows("SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq") == [
        (sha("receipt"), None),
        (sha("receipt2"), sha("receipt")),
    ]
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.commit_release(None, checkpoint=None, release=None, receipt=sha("receipt"))
    ledger.commit_release(None, checkpoint=sha("c3"), release=None, receipt=None)
    assert ledger.current("release") == sha("r2")


def test_current_and_meta(ledger: Ledger) -> None:
    assert ledger.current("checkpoint") is None
    ledger.set_current("checkpoint", sha("c"))
    assert ledger.current("checkpoint") == sha("c")
    with pytest.raises(LedgerError, match="CHECK"):
        ledger.set_current("checkpoint", "short")
    assert ledger.meta("key") is None
    ledger.set_meta("key", [1, {"a": None}])
    ledger.set_meta("key", {"b": 0.25})
    assert ledger.meta("key") == {"b": 0.25}
    with pytest.raises(LedgerError, match="meta 'key' cannot be JSON"):
        ledger.set_meta("key", float("inf"))


# The chain


def test_events_hold_no_sample_and_no_person(ledger: Ledger) -> None:
    fill(ledger)
    index = ledger.read_samples()
    told = " ".join(body for (body,) in ledger.rows("SELECT body FROM events"))
    for secret in ("req-1", "img/", *index.ids, *index.digests, *filter(None, index.subjects)):
        assert secret not in told


def test_the_chain_can_be_computed_by_hand(ledger: Ledger) -> None:
    ledger.set_meta("a", 1)
    ((seq, at, what, body, previous, found),) = ledger.rows("SELECT * FROM events")
    assert (seq, what, previous) == (1, "meta", "0" * 64)
    rows = hashlib.sha256(b'["a", "1", null]\n').hexdigest()
    assert body == f'{{"key":"a","rows":"{rows}"}}'
    text = f'{{"at":"{at}","body":{body},"previous":"{previous}","seq":1,"what":"meta"}}'
    assert found == ledger.head() == sha(text)


def test_events_cannot_be_changed_by_accident(ledger: Ledger) -> None:
    fill(ledger)
    for statement in ("UPDATE events SET at = ''", "DELETE FROM events"):
        with pytest.raises(LedgerError, match="an event is never"):
            ledger.rows(statement)


ZERO = "0" * 64
UNLOCK = ("DROP TRIGGER events_stay", "DROP TRIGGER events_remain")


def lock_again(path: Path) -> None:
    """Put back what UNLOCK dropped, so that nothing but the chain can give the change away."""
    with closing(sqlite3.connect(path)) as db:
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    triggers = {"events_stay": chain._EVENTS[1], "events_remain": chain._EVENTS[2]}
    outside(path, *(sql for name, sql in triggers.items() if name not in there))


@pytest.mark.parametrize(
    "tampering",
    [
        ("UPDATE requests SET outcome = 'denied'",),
        ("UPDATE requests SET due = '2030-01-01T00:00:00Z'",),
        ("UPDATE steps SET detail = '{}' WHERE seq = 1",),
        ("UPDATE steps SET status = 'done' WHERE status = 'started'",),
        ("DELETE FROM tombstones WHERE sample_id = 'img/0.png'",),
        ("DELETE FROM tombstones",),
        ("INSERT INTO tombstones SELECT 'x', digest, request_id, since FROM tombstones LIMIT 1",),
        (f"UPDATE current SET digest = '{'0' * 64}' WHERE name = 'release'",),
        ("DELETE FROM receipts",),
        ("UPDATE meta SET value = '2'",),
        ("UPDATE samples SET subject = '' WHERE position = 1",),
        ("UPDATE samples SET label = x'00' WHERE position = 1",),
        ("DELETE FROM samples WHERE position = 5",),
        ("UPDATE classes SET name = 'dog' WHERE code = 0",),
        ("PRAGMA foreign_keys = OFF", "DELETE FROM requests"),
        ("DROP TABLE receipts",),
        ("INSERT INTO meta VALUES ('unheard of', '1')",),
        UNLOCK,
        (*UNLOCK, "UPDATE events SET body = replace(body, '\"count\":2', '\"count\":1')"),
        (*UNLOCK, "UPDATE events SET body = body || ' '  WHERE seq = 3"),
        (*UNLOCK, "UPDATE events SET body = 'x' WHERE seq = 3"),
        (*UNLOCK, "UPDATE events SET body = '{\"key\":[1]}' WHERE seq = 3"),
        (*UNLOCK, "UPDATE events SET at = '' WHERE seq = 3"),
        (*UNLOCK, "UPDATE events SET what = 'step' WHERE seq = 3"),
        (*UNLOCK, "DELETE FROM events WHERE seq = 4"),
        (*UNLOCK, "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)"),
        (*UNLOCK, "DELETE FROM events"),
    ],
    ids=lambda tampering: str(tampering[-1])[:60],
)
def test_tampering_is_noticed(ledger: Ledger, tampering: tuple[str, ...]) -> None:
    fill(ledger)
    assert ledger.check() == []
    outside(ledger.path, *tampering)
    if tampering != UNLOCK:
        lock_again(ledger.path)
    problems = ledger.check()
    assert problems
    assert all(str(ledger.path) in problem for problem in problems)


def test_an_event_with_a_fitting_hash_must_still_follow_the_one_before(ledger: Ledger) -> None:
    fill(ledger)
    ((seq, at, what, body),) = ledger.rows("SELECT seq, at, what, body FROM events ORDER BY seq DESC LIMIT 1")
    forged = sha(f'{{"at":"{at}","body":{body},"previous":"{ZERO}","seq":{seq},"what":"{what}"}}')
    outside(
        ledger.path,
        *UNLOCK,
        f"UPDATE events SET previous = '{ZERO}', hash = '{forged}' WHERE seq = {seq}",
    )
    lock_again(ledger.path)
    (problem,) = ledger.check()
    assert f"event {seq} is missing or does not follow" in problem


def test_a_cut_chain_with_fitting_rows_needs_the_head_kept_elsewhere(ledger: Ledger) -> None:
    fill(ledger)
    head = ledger.head()
    ledger.set_meta("late", 1)
    outside(
        ledger.path,
        *UNLOCK,
        "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)",
        "DELETE FROM meta WHERE key = 'late'",
    )
    lock_again(ledger.path)
    assert ledger.check() == []  # as the module says: this is the chain's limit
    assert ledger.head() == head


def test_a_damaged_index_that_hides_a_step_is_noticed(ledger: Ledger) -> None:
    fill(ledger)
    index = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_steps_1'"
    ((page,),), ((size,),) = ledger.rows(index), ledger.rows("PRAGMA page_size")
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    place = data.index(b"resolved", (page - 1) * size, page * size)
    data[place : place + 8] = b"resolver"
    ledger.path.write_bytes(data)
    with Ledger.open(ledger.path) as damaged:
        assert damaged.step("req-1", "", "resolved") is None
        assert len(damaged.rows("SELECT step FROM steps NOT INDEXED")) == 2
        assert damaged.check()


def test_flipped_bytes_are_noticed_unless_nothing_was_lost(ledger: Ledger) -> None:
    def dump() -> list[str]:
        with closing(sqlite3.connect(ledger.path)) as db:
            return list(db.iterdump())

    fill(ledger)
    ledger.close()
    data, whole = ledger.path.read_bytes(), dump()
    noticed = 0
    places = range(0, len(data), 199)
    for place in places:
        ledger.path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            with Ledger.open(ledger.path) as damaged:
                problems = damaged.check()
        except (LedgerError, ConfigError):
            problems = ["does not open"]
        noticed += bool(problems)
        assert problems or dump() == whole, f"byte {place}"
    assert noticed > len(places) // 10  # most of so small a ledger is unused space


def test_damaged_values_are_ledger_errors(ledger: Ledger) -> None:
    fill(ledger)
    outside(ledger.path, "UPDATE meta SET value = '{'", "UPDATE steps SET detail = 'no'")
    for read in (lambda: ledger.meta("dataset"), lambda: ledger.steps("req-1")):
        with pytest.raises(LedgerError, match="not JSON"):
            read()
    for column in ("label = 'x'", "label = 99", "digest = 'short'", "id = ''"):
        outside(ledger.path, f"UPDATE samples SET {column} WHERE position = 0")
        with pytest.raises(LedgerError, match="damaged sample index"):
            ledger.read_samples()


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE samples SET subject = '{sha('person 0')}' WHERE position = 1",
        f"UPDATE samples SET digest = '{sha('another')}' WHERE position = 1",
        "UPDATE samples SET id = 'img/9.png' WHERE position = 1",
        "UPDATE samples SET split = 0",
        "DELETE FROM samples WHERE position = 1",
        "UPDATE classes SET name = 'dog' WHERE code = 1",
    ],
)
def test_an_altered_index_is_never_used(ledger: Ledger, statement: str) -> None:
    fill(ledger)
    assert ledger.read_samples()
    outside(ledger.path, statement)
    with pytest.raises(LedgerError, match="other than the one that was registered"):
        ledger.read_samples()


# Against a model

names = st.sampled_from(["a", "b", "c"])


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against dictionaries; closing and opening it in between must not matter."""

    def __init__(self) -> None:
        """Start with both empty."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger.create(Path(self.folder.name) / "ledger.db")
        self.requests: dict[str, list[Any]] = {}
        self.steps: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        self.stones: set[str] = set()
        self.pointers: dict[str, str] = {}

    @rule(name=names, body=names)
    def receive(self, name: str, body: str) -> None:
        known = self.requests.get(name)
        if known is not None and known[0] != sha(body):
            with pytest.raises(RequestError, match="conflict"):
                self.ledger.receive(name, sha(body), **RECEIVED)
        else:
            assert self.ledger.receive(name, sha(body), **RECEIVED) == (known is None)
            self.requests.setdefault(name, [sha(body), "received", None])

    @rule(name=names, state=names, outcome=st.none() | names)
    def set_outcome(self, name: str, state: str, outcome: str | None) -> None:
        if name in self.requests:
            self.ledger.set_outcome(name, state, outcome)
            self.requests[name][1:] = state, outcome
        else:
            with pytest.raises(LedgerError):
                self.ledger.set_outcome(name, state, outcome)

    @rule(name=names, step=names)
    def start(self, name: str, step: str) -> None:
        if name in self.requests and self.steps.get((name, step), ("",))[0] != "done":
            self.ledger.start_step(name, "", step)
            self.steps[name, step] = ("started", {})
        else:
            with pytest.raises(LedgerError):
                self.ledger.start_step(name, "", step)

    @rule(name=names, step=names, number=st.integers(0, 1), fail=st.booleans())
    def end(self, name: str, step: str, number: int, fail: bool) -> None:
        status = self.steps.get((name, step))
        after = ("failed", {"reason": str(number)}) if fail else ("done", {"n": number})

        def end() -> None:
            if fail:
                self.ledger.fail_step(name, "", step, str(number))
            else:
                self.ledger.finish_step(name, "", step, {"n": number})

        if status is not None and (status[0] == "started" or (status == after and not fail)):
            end()
            self.steps[name, step] = after
        else:
            with pytest.raises(LedgerError):
                end()

    @rule(name=names, samples=st.sets(names))
    def bury(self, name: str, samples: set[str]) -> None:
        if name in self.requests:
            new = self.ledger.add_tombstones(name, list(samples), [sha(s) for s in samples])
            assert new == len(samples - self.stones)
            self.stones |= samples

    @rule(checkpoint=st.none() | names, release=st.none() | names)
    def commit(self, checkpoint: str | None, release: str | None) -> None:
        digests = {"checkpoint": checkpoint, "release": release}
        given = {name: sha(text) for name, text in digests.items() if text is not None}
        self.ledger.commit_release(
            None, checkpoint=given.get("checkpoint"), release=given.get("release"), receipt=None
        )
        self.pointers |= given

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.ledger.path)

    @invariant()
    def same(self) -> None:
        found = {r.request_id: [r.digest, r.state, r.outcome] for r in self.ledger.requests()}
        assert found == self.requests
        assert self.steps == {
            (s.request_id, s.step): (s.status, s.detail)
            for name in self.requests
            for s in self.ledger.steps(name)
        }
        assert self.ledger.tombstones() == self.stones
        assert self.ledger.tombstone_digests() == {sha(s) for s in self.stones}
        for name in ("checkpoint", "release"):
            assert self.ledger.current(name) == self.pointers.get(name)
        assert self.ledger.check() == []

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestModel = LedgerMachine.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
