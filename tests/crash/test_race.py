"""Two real processes: one writes, the others wait, are told whom they wait for, or read undisturbed."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.store.ledger.ledger import Ledger
from tests.crash.conftest import STOP, Base, Driver, Undisturbed, begin, copied, unlearn
from tests.crash.jobs import Job, problems, state

Undisturb = Callable[[Job], Undisturbed]


def together(driver: Driver, project: Path, *commands: list[object]) -> list[Any]:
    """Start commands at once and wait for all of them."""
    return [driver.wait(pid) for pid in [driver.start(project, *words) for words in commands]]


def chained(project: Path) -> int:
    """How many receipts there are; each must name the one before it."""
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        rows = ledger.rows("SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq")
    assert [previous for _, previous in rows] == [None, *(digest for digest, _ in rows)][: len(rows)]
    return len(rows)


def test_of_two_that_make_a_project_one_does(driver: Driver, making: Job, tmp_path: Path) -> None:
    for number in range(3):
        project = tmp_path / str(number)
        ended = together(driver, project, *[making.command(project)] * 3)
        assert sorted(e.code for e in ended)[0] == 0
        for loser in (e for e in ended if e.code):
            assert (loser.code, loser.err.count("\n")) in ((9, 1), (2, 1)), loser.err
            assert "making a project" in loser.err or "already" in loser.err
        assert [e.code for e in ended].count(0) == 1
        assert problems(project) == []


def test_doctor_beside_init_sees_no_project_or_a_whole_one(
    driver: Driver, making: Job, undisturbed: Undisturb, tmp_path: Path
) -> None:
    calls = undisturbed(making).calls
    renames = [n for n, call in enumerate(calls, start=1) if call.op == "rename"]
    for n in (1, *renames, len(calls)):
        project = tmp_path / str(n)
        pid = driver.start(project, *making.command(project), what=STOP, at=n)
        assert driver.wait(pid).stopped
        looked = driver.run(project, "doctor", "--project", project, "--json")
        if (project / ".qmu").is_dir():
            assert (looked.code, looked.json["problems"]) == (0, [])
        else:
            assert looked.code == 2 and "no project at" in looked.err
        os.kill(pid, signal.SIGCONT)
        assert driver.wait(pid).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0, 300])
def test_two_requests_at_once(driver: Driver, base: Base, tmp_path: Path, wait_s: int) -> None:
    """Without --wait one is told who is first; with it both are served, one after the other."""
    served, told = 0, 0
    for number in range(5):
        project = copied(base.trained, tmp_path / str(number))
        wait = ["--wait", wait_s]
        ended = together(
            driver, project, [*unlearn(project, base.request), *wait], [*unlearn(project, base.second), *wait]
        )
        assert {e.code for e in ended} <= ({0, 9} if not wait_s else {0}), [e.err for e in ended]
        for busy in (e for e in ended if e.code == 9):
            assert "is locked by pid" in busy.err or "has not written its name" in busy.err
            told += 1
        served += chained(project)
        assert problems(project) == []
    print(f"wait {wait_s}: {served} served, {told} told who holds the store")
    assert served == 10 - told


@pytest.mark.slow
def test_readers_are_never_kept_waiting_and_a_second_writer_is_told(
    driver: Driver, base: Base, jobs: dict[str, Job], undisturbed: Undisturb, tmp_path: Path
) -> None:
    """The writer stands still at many of its calls, inside transactions too, until everybody has read."""
    run = undisturbed(jobs["unlearn again"])
    # From its last look at the ledger on, SQLite clears up behind the last user, for a few milliseconds.
    last = max(
        n for n, call in enumerate(run.calls) if call.path.endswith("ledger.db-wal") and call.op == "sync"
    )
    longest = 0.0
    stops = range(20, last, max(1, last // 12))
    for n in stops:
        project = begin(jobs["unlearn again"], tmp_path / "project")
        pid = driver.start(project, *unlearn(project, base.second), what=STOP, at=n)
        assert driver.wait(pid).stopped
        for command in (["status"], ["receipt", "verify"], ["receipt", "show"], ["doctor"]):
            begun = time.monotonic()
            looked = driver.run(project, *command, "--project", project, "--json")
            longest = max(longest, time.monotonic() - begun)
            assert looked.code == 0, f"{command} at {n} {run.calls[n - 1][:2]}: {looked.err}"
        model = driver.run(project, "verify", project / "release/model.onnx", "--project", project, "--quiet")
        assert model.code == 0, model.err
        second = driver.run(project, "export", "--project", project, "--quiet")
        assert second.code == 9 and f"pid {pid}" in second.err, second.err
        os.kill(pid, signal.SIGCONT)
        assert driver.wait(pid).code == 0
        assert state(project) == run.new
    print(f"{len(stops)} stops, the slowest reader took {longest:.2f} s")


@pytest.mark.slow
def test_the_lock_of_a_dead_process_is_free(driver: Driver, base: Base, tmp_path: Path) -> None:
    project = copied(base.trained, tmp_path / "project")
    pid = driver.start(project, *unlearn(project, base.request), what=STOP, at=100)
    assert driver.wait(pid).stopped
    waiting = driver.start(project, "export", "--project", project, "--quiet", "--wait", 120)
    time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    assert driver.wait(pid).code == -signal.SIGKILL
    assert driver.wait(waiting).code == 0
    assert driver.run(project, *unlearn(project, base.request)).code == 0
    assert problems(project) == [] and chained(project) == 1
    assert json.loads((project / "release/receipt.json").read_bytes())
