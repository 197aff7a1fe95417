"""Events are chained: whoever changes the ledger from outside is noticed."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.store.ledger import chain
from qmu_edge.store.ledger.ledger import Ledger
from tests.store.ledger.contents import fill, outside, sha


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
    assert ledger.problems() == []
    outside(ledger.path, *tampering)
    if tampering != UNLOCK:
        lock_again(ledger.path)
    problems = ledger.problems()
    assert problems
    assert all(str(ledger.path) in problem for problem in problems)
    if tampering != UNLOCK:  # which changed nothing, and is noticed when the file is opened
        with pytest.raises(LedgerError, match=r"^ledger "):
            ledger.require_sound()


def test_whoever_is_about_to_write_looks_at_all_but_what_is_checked_elsewhere(ledger: Ledger) -> None:
    fill(ledger)
    ledger.require_sound()
    ledger.rows("DELETE FROM samples WHERE position = 5")
    ledger.require_sound(besides={"samples"})
    with pytest.raises(
        LedgerError, match=r"samples 0 is not as the last event left it; qmu-edge doctor says"
    ):
        ledger.require_sound()


def test_a_body_in_another_form_is_noticed_although_its_hash_fits(ledger: Ledger) -> None:
    fill(ledger)
    ((seq, at, what, body, before),) = ledger.rows(
        "SELECT seq, at, what, body, previous FROM events ORDER BY seq DESC LIMIT 1"
    )
    doubled = body.replace("{", '{"key":"dataset",', 1)
    forged = sha(f'{{"at":"{at}","body":{doubled},"previous":"{before}","seq":{seq},"what":"{what}"}}')
    outside(
        ledger.path, *UNLOCK, f"UPDATE events SET body = '{doubled}', hash = '{forged}' WHERE seq = {seq}"
    )
    lock_again(ledger.path)
    assert any(f"event {seq}: its body is not canonical JSON" in problem for problem in ledger.problems())


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
    (problem,) = ledger.problems()
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
    assert ledger.problems() == []  # as the module says: this is the chain's limit
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
        assert damaged.problems()


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
                problems = damaged.problems()
        except (LedgerError, ConfigError):
            problems = ["does not open"]
        noticed += bool(problems)
        assert problems or dump() == whole, f"byte {place}"
    assert noticed > len(places) // 10  # most of so small a ledger is unused space


def test_damaged_values_are_ledger_errors(ledger: Ledger) -> None:
    fill(ledger)
    outside(ledger.path, "UPDATE meta SET value = '{'", "UPDATE steps SET detail = 'no'")
    for read in (lambda: ledger.meta("dataset"), lambda: ledger.steps("req-1")):
        with pytest.raises(LedgerError, match=r"^ledger .*: a value is not JSON"):
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
