"""Measurement of the time and the processed images of a run.

`counting` sets the current `Throughput`. Batches and steps report their time to it with `timed` and `waited`,
networks their images with `entered`; without a current one these have no effect. No measurement synchronises
with the device: on CUDA a point in time is an event, which is read after the device has passed it.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor

Phase = Literal["data", "step"]
Item = TypeVar("Item")
FORWARD_ONLY: Final = 1 / 3  # a backward pass costs about two forward passes


class _Moment:
    """A point in time on the host's clock, with the methods of a CUDA event."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "_Moment") -> float:
        """Milliseconds until `end`."""
        return 1e3 * (end.at - self.at)

    def query(self) -> bool:
        """Whether the point in time has passed: always."""
        return True


class Throughput:
    """Time and images of a run on `device` since construction."""

    def __init__(self, device: torch.device) -> None:
        """Start the clock; on CUDA, reset the peak memory statistics."""
        self._cuda = device if device.type == "cuda" else None
        self._images, self._passes = 0, 0.0
        self._seconds: dict[Phase, float] = {"data": 0.0, "step": 0.0}
        self._inside = False
        self._pending: deque[tuple[Phase, Any, Any]] = deque()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._started = time.perf_counter()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside the context as `name`; an inner phase counts as the outer one."""
        if self._inside:
            yield
            return
        self._inside, start = True, self._now()
        try:
            yield
        finally:
            self._inside = False
            self._pending.append((name, start, self._now()))
            self._settle()

    def enter(self, images: int, *, backward: bool) -> None:
        """Count images that enter a network; `backward` when a backward pass may follow."""
        self._images += images
        self._passes += images if backward else FORWARD_ONLY * images

    def spent(self, epoch: int) -> dict[str, int | float]:
        """Costs so far; synchronises with the device.

        Args:
            epoch: Images of one pass over the training set.

        Returns:
            `images` that entered a network and `images_per_s`; `epoch_equivalents`, the cost in passes over
            `epoch` images, where an image counts 1 with a backward pass and 1/3 without; seconds `data_s`
            spent on producing and awaiting batches, `step_s` in optimizer steps, `rest_s` on all else; on
            CUDA `device_peak_mb`, the peak size of all tensors in MiB.
        """
        if self._cuda:
            torch.cuda.synchronize(self._cuda)
        seconds = time.perf_counter() - self._started
        self._settle()
        data, step = self._seconds["data"], self._seconds["step"]
        found: dict[str, int | float] = {
            "images": self._images, "images_per_s": round(self._images / max(seconds, 1e-9), 1),
            "epoch_equivalents": round(self._passes / max(1, epoch), 4),
            "data_s": round(data, 3), "step_s": round(step, 3),
            "rest_s": round(max(0.0, seconds - data - step), 3),
        }  # fmt: skip
        if self._cuda:
            found["device_peak_mb"] = round(torch.cuda.max_memory_allocated(self._cuda) / 2**20, 1)
        return found

    def _now(self) -> Any:
        if self._cuda is None:
            return _Moment()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._cuda))
        return event

    def _settle(self) -> None:
        """Add up the phases whose end the device has passed."""
        while self._pending and self._pending[0][2].query():
            name, start, end = self._pending.popleft()
            self._seconds[name] += start.elapsed_time(end) / 1e3


_current: Final[ContextVar["Throughput | None"]] = ContextVar("throughput of the run", default=None)


@contextmanager
def counting(device: torch.device) -> Iterator[Throughput]:
    """Measure a run inside the context; of nested contexts only the inner one measures."""
    throughput = Throughput(device)
    token = _current.set(throughput)
    try:
        yield throughput
    finally:
        _current.reset(token)


def timed(name: Phase) -> AbstractContextManager[None]:
    """Count the time inside the context as a phase of the current run."""
    current = _current.get()
    return nullcontext() if current is None else current.phase(name)


def waited(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items; the time to produce them counts as "data"."""
    end = object()
    while True:
        with timed("data"):
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def entered(images: Tensor) -> None:
    """Count images (n, ...) that enter a network."""
    current = _current.get()
    if current is not None:
        current.enter(len(images), backward=torch.is_grad_enabled())
