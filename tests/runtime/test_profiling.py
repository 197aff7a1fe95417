"""A trace holds the steps that it says, and nothing is recorded where none was asked for."""

import json
from pathlib import Path

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.runtime.profiling import STEPS, WARM_UP, profiled


@pytest.mark.parametrize("steps", [WARM_UP + STEPS + 5, 7])
def test_a_trace_holds_the_steps_after_the_warm_up(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "trace.json"
    with profiled(None, path) as progress:
        for _ in range(steps):
            torch.ones(4, 4) @ torch.ones(4, 4)
            progress.advance(4)
    names = [event.get("name") for event in json.loads(path.read_bytes())["traceEvents"]]
    assert names.count("aten::mm") == min(STEPS, steps - WARM_UP)


def test_without_a_path_nothing_is_recorded(tmp_path: Path) -> None:
    with profiled(None, None) as progress:
        progress.advance(4)
    assert type(progress) is Progress
