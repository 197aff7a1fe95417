"""How many threads compute, and what the environment says of how they wait for each other.

A container may use fewer processors than it sees: threads beyond its quota only wait for each other. How
OpenMP's threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT) is left to the environment; `bench/neighbours.py`
measures what that costs beside other processes.

Contract. `settle` comes before PyTorch, numpy or onnxruntime are imported, for they read the environment
once. What the environment says already stays.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

THREADS: Final = "OMP_NUM_THREADS"
POLICY: Final = "OMP_WAIT_POLICY"
SPINS: Final = "GOMP_SPINCOUNT"  # of GNU's OpenMP, which PyTorch comes with: turns before a thread sleeps
BLOCKTIME: Final = "KMP_BLOCKTIME"  # the same of Intel's, in milliseconds
DYNAMIC: Final = "OMP_DYNAMIC"
WAITING: Final = (POLICY, SPINS, BLOCKTIME)
CGROUP: Final = Path("/proc/self/cgroup")
GROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Processors:
    """What this process may use.

    Attributes:
        threads: How many to compute with.
        why: Where the number comes from: "affinity", "quota" or the name of a variable.
        dynamic: Whether a run beside other processes goes on with fewer, see `qmu_edge.runtime.threads`.
        waiting: The variables that say how threads wait, by name.
    """

    threads: int
    why: str
    dynamic: bool
    waiting: Mapping[str, str]


def processors(environment: Mapping[str, str] = os.environ) -> Processors:
    """What this process may use, by its environment, its affinity and the quotas of its groups."""
    waiting = {name: environment[name] for name in WAITING if name in environment}
    threads, why = _affinity(), "affinity"
    quota = min(_quotas(CGROUP, GROUPS), default=None)
    if quota is not None and quota < threads:
        threads, why = max(1, round(quota)), "quota"
    asked = environment.get(THREADS, "").split(",")[0]
    if asked.isdecimal() and int(asked) not in (0, threads):  # else it is nobody's, or `settle` has set it
        threads, why = int(asked), THREADS
    dynamic = environment.get(DYNAMIC, "").strip().lower() not in ("false", "0")
    return Processors(threads, why, dynamic, waiting)


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the libraries that are imported later how many threads to use."""
    environment.setdefault(THREADS, str(processors(environment).threads))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(cgroup: Path, groups: Path) -> Iterator[float]:
    """Processors that the control groups of this process allow, the innermost and all around it."""
    try:
        lines = cgroup.read_text("ascii", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "cpu", "cpu,cpuacct"):
            continue
        root = groups / controllers if controllers else groups
        inner = root / place.strip("/")
        for folder in (inner, *inner.parents):
            if folder != root and root not in folder.parents:
                break
            yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """What one control group says: `cpu.max` of version 2, or the two files of version 1."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text("ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text("ascii").strip()
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return
