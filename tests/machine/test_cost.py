"""What a piece of work cost: its own seconds and the highest memory while it ran."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.machine.cost import measured_cost


def test_the_result_comes_back_with_the_seconds_that_it_took() -> None:
    def work() -> str:
        time.sleep(0.05)
        return "result"

    result, cost = measured_cost(work)
    assert result == "result" and cost.keys() == {"seconds", "peak_mb"}
    assert cost["seconds"] >= 0.05


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_the_peak_holds_what_the_work_has_given_back() -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    _, cost = measured_cost(lambda: np.ones(16 << 20).sum())  # 128 MiB
    assert cost["peak_mb"] >= before + 120
