"""The ledger's file: made once, read at one instant, refused when it is none of ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.errors import BusyError, ConfigError, IntegrityError, LedgerError
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from tests.store.ledger.contents import fill, outside, sha

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


def test_a_new_ledger_is_sound_private_and_durable(tmp_path: Path, ledger: Ledger) -> None:
    assert ledger.problems() == []
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.rows("PRAGMA journal_mode") == [("wal",)]
    assert ledger.rows("PRAGMA synchronous") == [(2,)]
    assert ledger.rows("PRAGMA foreign_keys") == [(1,)]
    assert ledger.rows("PRAGMA secure_delete") == [(1,)]
    assert ledger.rows("PRAGMA user_version") == [(2,)]


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
    outside(ledger.path, "PRAGMA user_version = 3")
    with pytest.raises(LedgerError, match="user_version is 3; allowed: 1 or 2"):
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
