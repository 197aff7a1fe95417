"""A process that is killed at any call, or at any time, loses nothing and mixes nothing."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.project.doctor import examine
from qmu_edge.project.project import STORE
from tests.crash.conftest import KILL_AFTER, KILL_BEFORE, KILL_HALF_WAY, Driver, Undisturbed, begin
from tests.crash.disk import Call, recorded
from tests.crash.jobs import Job, problems

Undisturb = Callable[[Job], Undisturbed]
# How many of a command's calls are tried: before, half way (writes only) and after the call.
TRIES = {
    "unlearn": (60, 20, 20), "unlearn again": (20, 5, 5), "train": (15, 5, 5), "export": (20, 5, 10),
    "init": (40, 15, 15),
}  # fmt: skip


def spread(numbers: Iterable[int], count: int) -> list[int]:
    """`count` of the numbers, evenly; the last is among them."""
    known = list(numbers)
    step = max(1.0, len(known) / count)
    return sorted({known[-1 - int(i * step)] for i in range(min(count, len(known)))})


def moments(calls: list[Call], tries: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(action, number of the call) of every kill."""
    every = range(1, len(calls) + 1)
    writes = [n for n in every if calls[n - 1].op == "write"]
    wanted = ((KILL_BEFORE, every), (KILL_HALF_WAY, writes), (KILL_AFTER, every))
    return [(what, n) for (what, known), k in zip(wanted, tries, strict=True) for n in spread(known, k)]


def survive(driver: Driver, job: Job, run: Undisturbed, project: Path, repair: bool) -> list[str]:
    """What is wrong with a killed project, now and after the same command again."""
    wrong = job.wrong(project, run.old, run.new)
    if repair and (project / STORE).is_dir():
        examine(project, repair=True)
        wrong += problems(project)
    ended = driver.run(project, *job.command(project))
    return wrong + job.unfinished(project, ended, run.new)


def kill_at(
    driver: Driver, job: Job, run: Undisturbed, kills: list[tuple[int, int]], at: Path
) -> dict[str, Any]:
    """Kill a job at each of the moments, and say what was wrong with which.

    Salts are random, so pages of a ledger fill otherwise in each run: one may end a few calls earlier, before
    it was to be killed. A twentieth of the moments may be lost to that.
    """
    found: dict[str, Any] = {}
    missed, record = 0, at.with_name("calls")
    for number, (what, n) in enumerate(kills):
        project = begin(job, at)
        ended = driver.run(project, *job.command(project), what=what, at=n, record=record)
        wrong = survive(driver, job, run, project, repair=number % 2 == 1)
        left = [call.op for call in recorded(record)[n - 1 :]]
        early = ended.code == 0 and not ("write" in left if what == KILL_HALF_WAY else left)
        missed += early
        if wrong or not (early or ended.code == -signal.SIGKILL):
            found[f"action {what} at {n} {run.calls[n - 1][:2]}: {ended.code}"] = wrong
    assert missed <= 1 + len(kills) // 20
    return found


@pytest.mark.slow
def test_a_project_in_the_making_survives_a_kill(
    driver: Driver, making: Job, undisturbed: Undisturb, tmp_path: Path
) -> None:
    run = undisturbed(making)
    kills = moments(run.calls, (6, 2, 2))
    assert kill_at(driver, making, run, kills, tmp_path / "project") == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIES)
def test_every_command_survives_a_kill_at_any_call(
    driver: Driver, jobs: dict[str, Job], undisturbed: Undisturb, tmp_path: Path, name: str
) -> None:
    run = undisturbed(jobs[name])
    kills = moments(run.calls, TRIES[name])
    wrong = kill_at(driver, jobs[name], run, kills, tmp_path / "project")
    print(f"{name}: {len(run.calls)} calls, killed {len(kills)} times, survived {len(kills) - len(wrong)}")
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unlearn", "init"])
def test_every_command_survives_a_kill_at_any_time(
    driver: Driver, jobs: dict[str, Job], undisturbed: Undisturb, tmp_path: Path, name: str
) -> None:
    job, chance = jobs[name], random.Random(0)
    begun = time.monotonic()
    run = undisturbed(job)
    longest, killed, wrong = time.monotonic() - begun, 0, {}
    for number in range(30):
        project = begin(job, tmp_path / "project")
        pid = driver.start(project, *job.command(project))
        time.sleep(chance.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        killed += driver.wait(pid).code == -signal.SIGKILL
        if found := survive(driver, job, run, project, repair=number % 2 == 1):
            wrong[number] = found
    print(f"{name}: killed {killed} times at random, went wrong {len(wrong)} times")
    assert wrong == {} and killed >= 10


@pytest.mark.slow
def test_killed_again_and_again_it_still_ends_in_one_receipt(
    driver: Driver, jobs: dict[str, Job], undisturbed: Undisturb, tmp_path: Path
) -> None:
    job, run = jobs["unlearn"], undisturbed(jobs["unlearn"])
    project = begin(job, tmp_path / "project")
    kills = 0
    for n in range(20, 2000, 20):
        kills += 1
        ended = driver.run(project, *job.command(project), what=KILL_BEFORE, at=n)
        assert job.wrong(project, run.old, run.new) == []
        if ended.code == 0:
            break
    print(f"one project killed {kills - 1} times in a row")
    assert job.unfinished(project, ended, run.new) == []
