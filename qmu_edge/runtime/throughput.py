"""Where the time and the images of a run go.

`counting` makes a throughput the current one. Batches and steps tell it with `timed` and `waited` what they
are about, networks with `entered` what they are given; without one these do nothing. No measurement waits
for the device: on CUDA a moment is an event, read after the device has passed it.
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
    """Now on the host's clock, with the methods of a CUDA event."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "_Moment") -> float:
        """Milliseconds until `end`."""
        return 1e3 * (end.at - self.at)

    def query(self) -> bool:
        """Whether it has come."""
        return True


class Throughput:
    """What a run on `device` spends from now on."""

    def __init__(self, device: torch.device) -> None:
        """Start the clock; on CUDA, start peak memory anew."""
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
        """Count what happens inside as `name`; a phase inside another is counted as that one."""
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
        """Costs until now; waits for the device.

        Args:
            epoch: Images of one pass over the training set.

        Returns:
            `images` that entered a network and `images_per_s`; `epoch_equivalents`, in which an image forward
            and backward is one of `epoch` and forward alone a third; seconds `data_s` of making and awaiting
            batches, `step_s` in optimizer steps, `rest_s` of all else; on CUDA `device_peak_mb`, the most MiB
            in tensors.
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
    """Measure what happens inside; of two only the inner one measures."""
    throughput = Throughput(device)
    token = _current.set(throughput)
    try:
        yield throughput
    finally:
        _current.reset(token)


def timed(name: Phase) -> AbstractContextManager[None]:
    """What happens inside is a phase of the run."""
    current = _current.get()
    return nullcontext() if current is None else current.phase(name)


def waited(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; the time to make and await them is "data"."""
    end = object()
    while True:
        with timed("data"):
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def entered(images: Tensor) -> None:
    """A network is given `images`, (n, ...)."""
    current = _current.get()
    if current is not None:
        current.enter(len(images), backward=torch.is_grad_enabled())
