"""The world around: full and read-only disks, other processes."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.store.ledger.ledger import Ledger
from tests.cli.refusals import ask, current, refused


@pytest.mark.parametrize("function", ["open", "replace"])
def test_a_read_only_disk_is_one_clear_message(
    made: Any, run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    real = getattr(os, function)

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        writes = function == "replace" or (args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(path).startswith(str(trained)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *args, **kwargs)

    before = digest(trained)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, 2, "Read-only file system")
    assert digest(trained) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_clear_message(made: Any, run: Any, trained: Path) -> None:
    (trained / ".qmu").chmod(0o555)
    try:
        refused(run("unlearn", "--request", made.request, "--project", trained, "--quiet"), 2)
    finally:
        (trained / ".qmu").chmod(0o755)


def test_a_full_disk_at_any_write_is_survived(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    failed_in = set()
    for allowed in (0, 1, 3, 6, 11, 17, 24, 32, 42, 60, 80):
        calls = iter(range(10_000))

        def full(handle: int, calls: Any = calls, allowed: int = allowed) -> None:
            if next(calls) >= allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
        if ended.code == 0:
            break
        refused(ended, 2, "No space left")
        failed_in.add(_last_step(trained))
        assert current(trained, "receipt") is None or "receipted" in failed_in
    assert len(failed_in) >= 4
    done = run("unlearn", "--request", made.request, "--project", trained, "--json", "--quiet")
    assert done.code == 0 and done.json["checkpoint"] == made.commands["unlearn"].json["checkpoint"]
    assert run("doctor", "--project", trained, "--json").json["problems"] == []


def _last_step(project: Path) -> str:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return str([("", ""), *ledger.rows("SELECT seq, step FROM steps ORDER BY seq")][-1][1])


def test_a_full_disk_under_the_ledger_is_survived(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.__init__

    def cramped(self: Ledger, path: Path) -> None:
        real(self, path)
        ((pages,),) = self.rows("PRAGMA page_count")
        self.rows(f"PRAGMA max_page_count = {pages}")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "__init__", cramped)
        ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, 2, "full")
    assert current(trained, "receipt") is None
    assert run("unlearn", "--request", made.request, "--project", trained, "--quiet").code == 0


HOLDER = """
import sys
from pathlib import Path
from qmu_edge.store.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_store(
    made: Any, run: Any, served: Path, digest: Any, tmp_path: Path
) -> None:
    other = ask(tmp_path, {"class_ids": [4]})
    words = [sys.executable, "-W", "ignore", "-c", HOLDER, str(served / ".qmu")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        before = digest(served)
        for command in (["unlearn", "--request", other], ["train"], ["export"]):
            refused(run(*command, "--project", served, "--quiet"), 9, f"pid {process.pid}")
        assert run("status", "--project", served).code == 0
        assert digest(served) == before
        process.communicate()
    assert run("export", "--project", served, "--quiet").code == 0


def test_another_process_that_writes_the_ledger_is_waited_for_and_named(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.__init__

    def hasty(self: Ledger, path: Path) -> None:
        real(self, path)
        self.rows("PRAGMA busy_timeout = 10")

    monkeypatch.setattr(Ledger, "__init__", hasty)
    other = sqlite3.connect(trained / ".qmu/ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused(run("unlearn", "--request", made.request, "--project", trained, "--quiet"), 9, "locked")
    finally:
        other.close()


@pytest.mark.parametrize(
    ("work", "method", "setting"),
    [
        ("pipeline.distributed.apply", "qmul", "[unlearn.qmul] batch = 128"),
        pytest.param("pipeline.distributed.apply", "retrain", "[train] batch = 128", marks=pytest.mark.slow),
        ("pipeline.unlearn_run.requantize", "qmul", "[train] batch = 128"),
    ],
)
def test_out_of_memory_in_unlearning_says_what_to_lower(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch, work: str, method: str, setting: str
) -> None:
    words = ["unlearn", "--request", made.request, "--method", method, "--project", trained, "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(f"qmu_edge.{work}", _take_all_memory)
        refused(run(*words), 2, f"{setting} takes more memory", "64 or less")
    assert run(*words).code == 0


def test_out_of_memory_in_training_says_what_to_lower(
    run: Any, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--project", untrained, "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("qmu_edge.pipeline.distributed.fit", _take_all_memory)
        refused(run(*words), 2, "[train] batch = 128 takes more memory", "64 or less")
    assert run(*words).code == 0


def _take_all_memory(*args: Any, **kwargs: Any) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)
