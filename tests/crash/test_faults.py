"""A full or failing disk is one clear message; a power cut loses nothing that was reported as done."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.conftest import FAIL_FROM_HERE, FAIL_ONCE, Driver, Undisturbed, begin
from tests.crash.disk import Disk
from tests.crash.jobs import Job, problems, state
from tests.crash.test_kill import spread

Undisturb = Callable[[Job], Undisturbed]
TRIES = {"unlearn": 40, "unlearn again": 10, "train": 12, "export": 20, "init": 40}
FAULTS = ((FAIL_FROM_HERE, errno.ENOSPC), (FAIL_ONCE, errno.ENOSPC), (FAIL_ONCE, errno.EIO))


def hampered(
    driver: Driver, job: Job, run: Undisturbed, at: Path, count: int, fault: tuple[int, int]
) -> list[object]:
    """Let calls of a job fail, and say what went wrong."""
    wrong: list[object] = []
    what, code = fault
    for n in spread(range(1, len(run.calls) + 1), count):
        project = begin(job, at)
        ended = driver.run(project, *job.command(project), what=what, at=n, errno=code)
        found = job.wrong(project, run.old, run.new)
        # 2: said so. 0: the call was of no consequence, such as removing the name of the holder.
        if ended.code not in (0, 2) or "Traceback" in ended.err or len(ended.err.splitlines()) > 1:
            found.append(f"code {ended.code}: {ended.err}")
        again = driver.run(project, *job.command(project))
        found += job.unfinished(project, again, run.new)
        if found:
            wrong.append((errno.errorcode[code], n, run.calls[n - 1][:2], run.calls[n - 1].path, found))
    return wrong


@pytest.mark.slow
def test_a_project_in_the_making_survives_a_failing_disk(
    driver: Driver, making: Job, undisturbed: Undisturb, tmp_path: Path
) -> None:
    run = undisturbed(making)
    for fault in FAULTS:
        assert hampered(driver, making, run, tmp_path / "project", 3, fault) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=["full for good", "full once", "failing once"])
@pytest.mark.parametrize("name", TRIES)
def test_every_command_survives_a_failing_disk(
    driver: Driver,
    jobs: dict[str, Job],
    undisturbed: Undisturb,
    tmp_path: Path,
    name: str,
    fault: tuple[int, int],
) -> None:
    run = undisturbed(jobs[name])
    wrong = hampered(driver, jobs[name], run, tmp_path / "project", TRIES[name], fault)
    print(f"{name}: {min(TRIES[name], len(run.calls))} faults, went wrong {len(wrong)}")
    assert wrong == []


def cut(
    driver: Driver, job: Job, run: Undisturbed, at: Path, cuts: list[int], seed: int | None
) -> list[object]:
    """Replay a recorded run up to each cut, take the power away, and say what is wrong with what is left."""
    wrong: list[object] = []
    disk = Disk(run.project)
    disk.top = Disk(job.start or at / "nothing").top
    chance = None if seed is None else random.Random(seed)
    done = False
    for n, call in enumerate(run.calls, start=1):
        disk.replay(call)
        if n in cuts:
            project = disk.mount(at / f"{n}-{seed}", chance)
            found = job.wrong(project, run.old, run.new)
            if done and state(project) != run.new:
                found.append("what was done is undone")
            done = done or state(project) == run.new
            ended = driver.run(project, *job.command(project))
            found += job.unfinished(project, ended, run.new)
            if found:
                wrong.append((n, seed, call[:2], call.path, found))
    return wrong


def test_a_project_in_the_making_survives_a_power_cut(
    driver: Driver, making: Job, undisturbed: Undisturb, tmp_path: Path
) -> None:
    run = undisturbed(making)
    cuts = spread(range(1, len(run.calls) + 1), 6)
    assert cut(driver, making, run, tmp_path, cuts, None) == []
    assert state(run.project) == run.new and problems(run.project) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 0, 1], ids=["all unsynced is lost", "some of it", "some other"])
@pytest.mark.parametrize("name", TRIES)
def test_every_command_survives_a_power_cut(
    driver: Driver, jobs: dict[str, Job], undisturbed: Undisturb, tmp_path: Path, name: str, seed: int | None
) -> None:
    run = undisturbed(jobs[name])
    cuts = spread(range(1, len(run.calls) + 1), TRIES[name])
    wrong = cut(driver, jobs[name], run, tmp_path, cuts, seed)
    print(f"{name}: {len(cuts)} power cuts, went wrong {len(wrong)}")
    assert wrong == []


def test_the_power_goes_right_after_the_end(
    driver: Driver, making: Job, undisturbed: Undisturb, tmp_path: Path
) -> None:
    """Everything that a command has reported as done is there."""
    run = undisturbed(making)
    disk = Disk(run.project)
    disk.top = Disk(tmp_path / "nothing").top
    for call in run.calls:
        disk.replay(call)
    project = disk.mount(tmp_path / "after", None)
    assert state(project) == run.new
    assert problems(project) == []
