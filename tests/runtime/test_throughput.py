"""The meter: whose time, which images, and nothing where nobody asked."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.runtime import throughput
from qmu_edge.runtime.throughput import counting, timed, waited
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time is whatever the only element says."""
    now = [100.0]
    monkeypatch.setattr("qmu_edge.runtime.throughput.time.perf_counter", lambda: now[0])
    return now


class Slow(Classifier):
    """One weight; every forward pass takes two seconds of the clock."""

    def __init__(self, clock: list[float]) -> None:
        """Advance `clock`."""
        super().__init__(ModelRecipe(), Shape(channels=1, classes=2))
        self.weight = torch.nn.Parameter(torch.ones(4, 2))
        self.clock = clock

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.clock[0] += 2
        return images.flatten(1) @ self.weight


def samples(n: int) -> Samples:
    return Samples(
        torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n), torch.zeros(n, dtype=torch.int64), CPU
    )


def test_steps_batches_and_the_rest_are_told_apart(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Samples._fetch

    def slow(self: Samples, parts: Any) -> Iterator[torch.Tensor]:
        for images in fetch(self, parts):
            clock[0] += 3
            yield images

    monkeypatch.setattr(Samples, "_fetch", slow)
    model = Slow(clock)
    descent = Descent(model, Optimization(), 3, Progress())
    with counting(CPU) as found:
        for batch in samples(10).batches(4):
            descent.step(cross_entropy(model), batch)
            clock[0] += 5
        flat = descent.gradient(lambda images: model(images).sum(), torch.ones(4, 1, 2, 2))
        descent.follow(flat, 4)
        with torch.no_grad():
            model(torch.ones(6, 1, 2, 2))
    assert found.spent(10) == {
        "images": 20, "images_per_s": 0.6, "epoch_equivalents": 1.6,
        "data_s": 9.0, "step_s": 8.0, "rest_s": 17.0,
    }  # fmt: skip


def test_a_part_inside_a_part_is_counted_once(clock: list[float]) -> None:
    def making() -> Iterator[int]:
        clock[0] += 1
        yield 7

    with counting(CPU) as found, timed("step"):
        assert list(waited(making())) == [7]
    assert (found.spent(1)["data_s"], found.spent(1)["step_s"]) == (0.0, 1.0)


def test_the_inner_meter_measures_and_the_outer_one_goes_on_after_an_error(clock: list[float]) -> None:
    model = Slow(clock)
    with counting(CPU) as outer:
        with pytest.raises(ZeroDivisionError), counting(CPU) as inner:
            model(torch.ones(3, 1, 2, 2))
            raise ZeroDivisionError
        model(torch.ones(2, 1, 2, 2))
    model(torch.ones(50, 1, 2, 2))
    assert (inner.spent(1)["images"], outer.spent(1)["images"]) == (3, 2)
    assert throughput._current.get() is None


class Event:
    """A CUDA event that the device passes when `passed` says so."""

    passed = 0
    made = 0

    def __init__(self) -> None:
        """Number it."""
        Event.made += 1
        self.number = Event.made

    def query(self) -> bool:
        return self.number <= Event.passed

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query(), "reading an event early would wait for the device"
        return 1000.0 * (end.number - self.number)


def test_moments_are_read_only_after_the_device_has_passed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "_Moment", Event)
    with counting(CPU) as found:
        for _ in range(3):
            with timed("step"):
                pass
        assert len(found._pending) == 3
        Event.passed = 3
        with timed("data"):
            pass
        assert len(found._pending) == 3  # the first is read, the fourth has joined
        Event.passed = 8
    spent = found.spent(1)
    assert (spent["step_s"], spent["data_s"]) == (3.0, 1.0) and not found._pending


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_parts_fit_into_the_whole() -> None:
    device = torch.device("cuda")
    with counting(device) as found:
        for _ in range(10):
            with timed("step"):
                torch.rand(2048, 2048, device=device) @ torch.rand(2048, 2048, device=device)
    spent = found.spent(1)
    assert spent["step_s"] > 0 and spent["device_peak_mb"] >= 48 and spent["rest_s"] >= 0
