"""Latency and memory: percentiles in order, of the batch that was asked for."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.verify.performance import WARM_UP, latency, peak_mebibytes
from qmu_edge.verify.session import OrtRunner
from tests.verify import files


def test_percentiles_of_the_runs_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = OrtRunner(files.write(tmp_path / "model.onnx", files.qcdq()))
    seen: list[tuple[int, ...]] = []

    def logits(self: OrtRunner, images: NDArray[Any], *, batch: int) -> NDArray[np.float32]:
        seen.append((*images.shape, batch))
        return np.zeros((len(images), 5), np.float32)

    durations = [0.001 * n for n in range(1, 102)]  # 1 to 101 milliseconds
    ticks = accumulate(step for duration in durations for step in (0.0, duration))
    monkeypatch.setattr(OrtRunner, "logits", logits)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    found = latency(runner, np.zeros((3, 3, 8, 8), np.uint8), batch=7, repeats=101)
    assert (found.p50, found.p95, found.p99) == pytest.approx((51, 96, 100))
    assert seen == [(7, 3, 8, 8, 7)] * (101 + WARM_UP)


def test_peak_memory_never_falls() -> None:
    before = peak_mebibytes()
    array = np.ones(2**22)  # 32 MiB, written to
    after = peak_mebibytes()
    assert before and after and after >= before > 1
    assert array.sum() == 2**22
