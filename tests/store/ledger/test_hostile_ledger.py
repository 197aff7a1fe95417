"""A ledger that somebody else prepared is refused when it is opened, before anything is written into it."""

import sqlite3
import struct
from pathlib import Path

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.store.ledger.ledger import Ledger

EVIL = "CREATE TRIGGER {} AFTER INSERT ON tombstones BEGIN DELETE FROM tombstones; END"
SCHEMA = """PRAGMA writable_schema = ON;
    INSERT INTO sqlite_master SELECT 'trigger', 'sqlite_evil', 'tombstones', 0, '{}';
    PRAGMA writable_schema = OFF"""
PREPARED = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON tombstones BEGIN DELETE FROM tombstones; END",
    "a view": "CREATE VIEW v AS SELECT * FROM samples",
    "a table": "CREATE TABLE more (a)",
    "an index": "CREATE INDEX i ON samples (subject)",
    "a view in place of a table": "DROP TABLE tombstones; CREATE VIEW tombstones AS SELECT 1",
    "a table without its rules": "DROP TABLE current; CREATE TABLE current (name TEXT, digest TEXT)",
    "no guard of events": "DROP TRIGGER events_stay",
    "a trigger named like SQLite's own": EVIL.format("sqliteXevil"),
    "a trigger with a name of SQLite's own": SCHEMA.format(EVIL.format("sqlite_evil")),
    "statistics": "ANALYZE",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A new ledger."""
    Ledger.create(tmp_path / "ledger.db").close()
    return tmp_path / "ledger.db"


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_ledger_is_not_opened(path: Path, name: str) -> None:
    Ledger.open(path).close()
    other = sqlite3.connect(path)
    other.executescript(PREPARED[name])
    other.close()
    with pytest.raises(LedgerError, match="its tables or triggers are not those of this version"):
        Ledger.open(path)


@pytest.mark.parametrize(
    "data", [b"", b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000), b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_not_sqlite_is_not_opened(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(LedgerError, match=str(path)):
        Ledger.open(path)


def test_a_value_that_would_fill_the_memory_is_not_read(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("INSERT INTO meta VALUES ('a', CAST(zeroblob(100000000) AS TEXT))")
    other.commit()
    other.close()
    with Ledger.open(path) as ledger, pytest.raises(LedgerError, match="too big"):
        ledger.meta("a")


def hot_journal(ledger: Path, named: Path) -> bytes:
    """What SQLite takes for the rest of a transaction over several files, `named` the list of them."""
    data, magic = ledger.read_bytes(), bytes.fromhex("d9d505f920a163d7")
    page = int.from_bytes(data[16:18], "big")
    header = magic + struct.pack(">5I", 0, 1, len(data) // page, 512, page)
    name = str(named).encode()
    last = struct.pack(">I", (1 << 30) // page + 1) + name + struct.pack(">2I", len(name), sum(name))
    return header.ljust(512, b"\0") + last + magic


@pytest.mark.parametrize("may_write", [True, False])
def test_opening_a_ledger_removes_no_file_that_a_journal_beside_it_names(
    tmp_path: Path, may_write: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would read it as a list of journals, find that none of them is left, and remove it."""
    path, precious = tmp_path / "ledger.db", tmp_path / "precious"
    Ledger.create(path).close()
    precious.write_text("mine")
    path.with_name("ledger.db-journal").write_bytes(hot_journal(path, precious))
    if not may_write:
        monkeypatch.setattr("qmu_edge.store.ledger.opening.may_write", lambda path: False)
    for way in (Ledger.open, Ledger.create):
        with pytest.raises(LedgerError, match=r"ledger\.db-journal: names another file"):
            way(path)
    assert precious.read_text() == "mine"


def test_a_journal_that_names_no_file_is_rolled_back(tmp_path: Path) -> None:
    """What a kill may leave while a ledger is made."""
    path = tmp_path / "ledger.db"
    Ledger.create(path).close()
    journal = path.with_name("ledger.db-journal")
    journal.write_bytes(hot_journal(path, tmp_path)[:512])
    with Ledger.open(path) as ledger:
        assert ledger.problems() == []
    assert not journal.exists()
