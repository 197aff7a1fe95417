"""Memory between steps: kept inside, handed back afterwards, whichever thread asks for it.

In a process of its own: the heap of one that has done other things has holes that serve some of it.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from qmu_edge.runtime.malloc import _glibc

PIECES, MIB = 4, 40
MEASURED = """
import json, sys, threading
import torch
from qmu_edge.runtime.malloc import kept_memory

def mib_of_a_step(pieces=4, mib=40):
    "What goes back to the kernel at the end of a step like four before it."
    for _ in range(5):
        held_by = [torch.ones(mib * 2**18) for _ in range(pieces)]
        held = resident()
        del held_by
        found = held - resident()
    return found

def resident():
    "MiB, exact: the number in statm is summed up late, and page faults count less where pages are huge."
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024

found = {"outside": mib_of_a_step()}
with kept_memory(torch.device("cuda")):
    found["on a GPU"] = mib_of_a_step()
first = resident()
try:
    with kept_memory(torch.device("cpu")):
        found["inside"] = mib_of_a_step()
        found["kept"] = resident() - first
        sums = []
        thread = threading.Thread(target=lambda: sums.append(float(torch.ones(40 * 2**18).sum())))
        thread.start(); thread.join()
        found["thread"] = sums
        raise RuntimeError
except RuntimeError:
    found["left"] = resident() - first
found["afterwards"] = mib_of_a_step(1, 200)  # more than any hole that the steps inside may have left
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    if _glibc() is None:
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["outside", "on a GPU", "afterwards"])
def test_every_step_hands_its_memory_back(found: Any, where: str) -> None:
    assert found[where] > 0.2 * PIECES * MIB  # holes of the heap may keep the rest


def test_inside_a_step_leaves_its_memory_to_the_next(found: Any) -> None:
    assert abs(found["inside"]) < 0.01 * PIECES * MIB


def test_afterwards_memory_is_handed_back(found: Any) -> None:
    assert found["kept"] > 0.9 * PIECES * MIB
    assert found["left"] < 0.1 * PIECES * MIB


def test_another_thread_gets_memory_too(found: Any) -> None:
    assert found["thread"] == [MIB * 2**18]


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert _glibc.__wrapped__() is None
