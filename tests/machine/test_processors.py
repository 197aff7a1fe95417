"""Threads and how they wait: what the environment, the affinity and the control groups say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qmu_edge.machine import processors as module
from qmu_edge.machine.processors import (
    BLOCKTIME,
    DYNAMIC,
    POLICY,
    SPINS,
    THREADS,
    WAITING,
    processors,
    settle,
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen processors without control groups; returns the folder in which to make some."""
    monkeypatch.setattr(module, "_affinity", lambda: 16)
    monkeypatch.setattr(module, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(module, "GROUPS", tmp_path / "groups")
    return tmp_path


def put(root: Path, lines: str, **files: str) -> None:
    """Control groups: /proc/self/cgroup, and files by their path with __ for / and _ for ."""
    (root / "cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "groups" / name.replace("__", "/").replace("cpu_max", "cpu.max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_groups_every_processor_that_the_affinity_allows(machine: Path) -> None:
    found = processors({})
    assert (found.threads, found.why, found.waiting) == (16, "affinity", {})


@pytest.mark.parametrize(
    ("text", "threads"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("10 100000", 1)]
)
def test_a_quota_is_rounded_to_whole_threads_and_never_to_none(
    machine: Path, text: str, threads: int
) -> None:
    put(machine, "0::/pod\n", pod__cpu_max=text)
    assert (processors({}).threads, processors({}).why) == (threads, "quota")


def test_the_tightest_quota_of_all_groups_around_counts(machine: Path) -> None:
    put(machine, "0::/a/b\n", a__b__cpu_max="800000 100000", a__cpu_max="300000 100000", cpu_max="max 100000")
    assert processors({}).threads == 3


def test_groups_of_version_one(machine: Path) -> None:
    put(machine, "4:cpu,cpuacct:/docker/1\n2:memory:/x\n")
    folder = machine / "groups/cpu,cpuacct/docker/1"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert processors({}).threads == 4
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert processors({}).why == "affinity"


@pytest.mark.parametrize("text", ["", "max", "max 100000", "x y", "1 0", "1 2 3", "\xff"])
def test_a_group_that_says_nothing_limits_nothing(machine: Path, text: str) -> None:
    put(machine, "0::/pod\n:\nnonsense\n0::/../../outside\n", pod__cpu_max=text)
    assert (processors({}).threads, processors({}).why) == (16, "affinity")


def test_a_group_outside_of_the_mounted_ones_is_not_read(machine: Path) -> None:
    put(machine, "0::/../../..\n")
    (machine / "cpu.max").write_text("100000 100000")
    assert processors({}).why == "affinity"


def test_a_larger_quota_than_processors_changes_nothing(machine: Path) -> None:
    put(machine, "0::/\n", cpu_max="6400000 100000")
    assert (processors({}).threads, processors({}).why) == (16, "affinity")


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("3,2", 3), ("0", 16), ("-1", 16), ("many", 16)])
def test_what_the_user_has_set_counts(machine: Path, value: str, threads: int) -> None:
    assert processors({THREADS: value}).threads == threads


def test_settle_fills_in_what_is_not_set(machine: Path) -> None:
    environment: dict[str, str] = {}
    settle(environment)
    assert environment == {THREADS: "16"}


@pytest.mark.parametrize("name", [POLICY, SPINS, BLOCKTIME])
def test_what_the_environment_says_stays_and_is_told(machine: Path, name: str) -> None:
    environment = {name: "1", THREADS: "5"}
    settle(environment)
    assert environment == {name: "1", THREADS: "5"}
    assert processors(environment).waiting == {name: "1"}


@pytest.mark.parametrize(("text", "dynamic"), [("FALSE", False), ("0", False), ("true", True), ("", True)])
def test_the_number_is_kept_where_the_environment_says_so(machine: Path, text: str, dynamic: bool) -> None:
    assert processors({DYNAMIC: text}).dynamic is dynamic


def test_the_libraries_obey() -> None:
    """PyTorch counts its threads by what `settle` has said; it comes too late for one that is imported."""
    script = (
        "from qmu_edge.machine import processors\n"
        "processors._affinity = lambda: 1\n"
        "processors.settle()\n"
        "import sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import torch; print(torch.get_num_threads())\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in (THREADS, *WAITING)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=clean, check=True
    )
    assert done.stdout.split() == ["1"]
