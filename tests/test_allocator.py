"""Memory between steps: kept inside, handed back afterwards, whichever thread asks for it."""

import resource
import threading

import pytest
import torch

from qmu_edge.allocator import _glibc, kept_memory

PIECES, MIB = 4, 40
PAGES = PIECES * MIB * 2**20 // resource.getpagesize()
pytestmark = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")


def pages_of_a_step() -> int:
    """Pages that the kernel hands out for a step like four before it."""
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pieces = [torch.ones(MIB * 2**18) for _ in range(PIECES)]
        found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del pieces
    return found


def resident_mib() -> float:
    with open("/proc/self/statm", encoding="utf-8") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize() / 2**20


def test_a_step_gets_the_memory_of_the_step_before() -> None:
    assert pages_of_a_step() > 0.9 * PAGES
    with kept_memory(torch.device("cpu")):
        assert pages_of_a_step() < 0.01 * PAGES


def test_afterwards_memory_is_handed_back() -> None:
    before = resident_mib()
    with pytest.raises(RuntimeError), kept_memory(torch.device("cpu")):
        pages_of_a_step()
        assert resident_mib() > before + 0.9 * PIECES * MIB
        raise RuntimeError
    assert resident_mib() < before + 0.1 * PIECES * MIB
    assert pages_of_a_step() > 0.9 * PAGES


def test_another_thread_gets_memory_too() -> None:
    found: list[float] = []
    with kept_memory(torch.device("cpu")):
        thread = threading.Thread(target=lambda: found.append(float(torch.ones(MIB * 2**18).sum())))
        thread.start()
        thread.join()
    assert found == [MIB * 2**18]


def test_on_a_gpu_nothing_changes() -> None:
    with kept_memory(torch.device("cuda")):
        assert pages_of_a_step() > 0.9 * PAGES
