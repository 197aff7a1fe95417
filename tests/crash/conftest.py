"""A warm process that runs commands and can be told where they end, and projects to try it on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.conftest import RECIPE, SUBJECT
from tests.crash.disk import Call, recorded
from tests.crash.jobs import STATE, Job, problems, state

HERE = Path(__file__).parent
WATCH, KILL_BEFORE, KILL_AFTER, KILL_HALF_WAY, FAIL_ONCE, FAIL_FROM_HERE, STOP = range(7)


class Process(NamedTuple):
    """How a command ended (below 0: by which signal), or that it stopped on the way."""

    code: int
    out: str
    err: str
    stopped: bool

    @property
    def json(self) -> Any:
        """Stdout, which must be one JSON value."""
        return json.loads(self.out)


class Driver:
    """The warm process; see `driver.py`."""

    def __init__(self, shim: Path) -> None:
        """Start it."""
        source = HERE.parents[1]
        words = [sys.executable, "-W", "ignore", str(HERE / "driver.py")]
        paths = os.pathsep.join([str(source), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        environment = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def order(self, **order: Any) -> Any:
        """Send one order and take the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(order, default=str), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"the driver died at {order}"
        return json.loads(answer)

    def start(self, root: Path, *command: object, what: int = WATCH, at: int = 0, **more: Any) -> int:
        """Start a command; the action `what` happens at the call number `at` below `root`."""
        words = [str(word) for word in command]
        return int(self.order(start=words, root=str(root), what=what, at=at, **more)["pid"])

    def wait(self, pid: int) -> Process:
        """Wait until it ends or stops."""
        found = self.order(wait=pid)
        if found["state"] == "stopped":
            return Process(0, "", "", True)
        return Process(found["code"], found["out"], found["err"], False)

    def run(self, root: Path, *command: object, **more: Any) -> Process:
        """Start and wait."""
        return self.wait(self.start(root, *command, **more))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The driver, cold."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c"), "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
    driver = Driver(shim)
    yield driver
    with driver.process as process:
        assert process.stdin is not None
        process.stdin.close()


class Base(NamedTuple):
    """Projects that are made once; only their copies may be changed."""

    recipe: Path
    untrained: Path
    trained: Path
    served: Path
    request: Path
    second: Path


@pytest.fixture(scope="session")
def base(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """From `init` to two receipts, by the commands; the driver remembers their numeric work."""
    folder = tmp_path_factory.mktemp("base")
    found = Base(*(folder / n for n in ("tiny.toml", "untrained", "trained", "served", "a.json", "b.json")))
    found.recipe.write_text(RECIPE, "utf-8")
    driver.order(warm=[["init", found.untrained, "--recipe", found.recipe, "--quiet"]])
    copied(found.untrained, found.trained)
    driver.order(warm=[["train", "--project", found.trained, "--quiet"]])
    for request, subject in ((found.request, SUBJECT), (found.second, "writer-5")):
        driver.order(warm=[["request", "new", "--subject", subject, "--out", request]])
    copied(found.trained, found.served)
    driver.order(warm=[unlearn(found.served, found.request)])
    driver.order(warm=[unlearn(copied(found.served, folder / "both"), found.second)])
    driver.order(warm=[["export", "--project", copied(found.trained, folder / "out"), "--quiet"]])
    return found


def unlearn(project: Path, request: Path) -> list[object]:
    """The command that serves a request."""
    return ["unlearn", "--request", request, "--project", project, "--json", "--quiet"]


def copied(project: Path, to: Path) -> Path:
    """A copy of a project, links kept; in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(project, to, symlinks=True))


@pytest.fixture(scope="session")
def making(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Making a project; needs no warm driver."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    recipe.write_text(RECIPE, "utf-8")
    return Job("init", None, lambda project: ["init", project, "--recipe", recipe, "--quiet"])


@pytest.fixture(scope="session")
def jobs(base: Base, making: Job) -> dict[str, Job]:
    """All commands that write."""
    found = (
        Job("unlearn", base.trained, lambda project: unlearn(project, base.request)),
        Job("unlearn again", base.served, lambda project: unlearn(project, base.second)),
        Job("train", base.untrained, lambda project: ["train", "--project", project, "--quiet"]),
        Job("export", base.trained, lambda project: ["export", "--project", project, "--quiet"]),
        making,
    )
    return {job.name: job for job in found}


class Undisturbed(NamedTuple):
    """The states before and after, and the calls in between."""

    old: STATE
    new: STATE
    calls: list[Call]
    project: Path


@pytest.fixture
def undisturbed(driver: Driver, tmp_path: Path) -> Callable[[Job], Undisturbed]:
    """Runs a job as it should be, and records it."""

    def run(job: Job) -> Undisturbed:
        project, record = begin(job, tmp_path / "undisturbed"), tmp_path / "record"
        old = state(project)
        ended = driver.run(project, *job.command(project), record=record)
        assert ended.code == 0, ended.err
        assert problems(project) == []
        return Undisturbed(old, state(project), recorded(record), project)

    return run


def begin(job: Job, at: Path) -> Path:
    """The project before the job, in place of whatever is at `at`."""
    shutil.rmtree(at, ignore_errors=True)
    return copied(job.start, at) if job.start else at
