"""A run that has to wait for processors goes on with fewer threads.

Threads wait for each other at the end of every operation, and inside oneDNN's gradient of a convolution's
weight, where they spin in generated code that no setting of OpenMP reaches. Where another process holds a
processor, each of these waits lasts a time slice of the scheduler, and a training of a small network takes
5 to 60 times its time. With a thread less nothing waits. `bench/neighbours.py` measures it.

The number of threads decides how sums are rounded. So it is never changed in deterministic runs, nor where
several processes must compute the same, nor where the environment says `OMP_DYNAMIC=false`.
"""

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

import torch

from qmu_edge.machine import processors as machine
from qmu_edge.runtime.parallel import processes

Item = TypeVar("Item")

LOOK_S: Final = 0.25  # many time slices
WAITING: Final = 0.1  # of the time: more is not the system's own work
FIRST_TRY_S: Final = 2.0  # a try costs a step or two where the other process is still there
LAST_TRY_S: Final = 64.0
TASKS: Final = Path("/proc/self/task")


class Sharing:
    """How many threads to compute with, from how long the process's threads have waited for processors."""

    def __init__(self, most: int, now: float, waited: float) -> None:
        """Begin with `most` threads; the times are as in `look`."""
        self.threads = self.most = most
        self._looked, self._waited, self._changed = now, waited, now
        self._try_after, self._tried = FIRST_TRY_S, False

    def due(self, now: float) -> bool:
        """Whether the last look is long enough ago."""
        return now - self._looked >= LOOK_S

    def look(self, now: float, waited: float) -> None:
        """Halve `threads` where they have waited, or try twice as many again, ever more rarely in vain.

        Args:
            now: Seconds of a clock.
            waited: Seconds that all threads together were ready to run and had no processor, ever.

        >>> sharing = Sharing(2, now=0.0, waited=0.0)
        >>> for now, waited in ((1.0, 0.01), (2.0, 0.51), (3.0, 0.51), (5.0, 0.51)):
        ...     sharing.look(now, waited)
        ...     print(sharing.threads)
        2
        1
        1
        2
        """
        unchanged_s = now - self._changed
        if waited - self._waited > WAITING * (now - self._looked):
            if self._tried:
                in_vain = unchanged_s < self._try_after
                self._try_after = min(LAST_TRY_S, 2 * self._try_after) if in_vain else FIRST_TRY_S
            self.threads, self._changed, self._tried = max(1, self.threads // 2), now, False
        elif self.threads < self.most and unchanged_s > self._try_after:
            self.threads, self._changed, self._tried = min(self.most, 2 * self.threads), now, True
        self._looked, self._waited = now, waited


def waited_s() -> float:
    """Seconds that the process's threads were ready and had no processor; 0 where nothing counts them."""
    total = 0
    for task in TASKS.glob("*/schedstat"):
        try:
            total += int(task.read_text("ascii").split()[1])
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
    return total / 1e9


@cache
def _sharing() -> Sharing:
    """Of this process: the number of threads is the process's too, and so is its environment."""
    most = torch.get_num_threads() if machine.processors().dynamic else 1
    return Sharing(most, time.monotonic(), waited_s())


def giving_way(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items; between them, the number of PyTorch's threads follows `Sharing`."""
    sharing = _sharing()
    if sharing.most == 1 or torch.are_deterministic_algorithms_enabled() or processes() > 1:
        yield from items
        return
    for item in items:
        if sharing.due(now := time.monotonic()):
            before = sharing.threads
            sharing.look(now, waited_s())
            if sharing.threads != before:  # else what the caller may have set stays
                torch.set_num_threads(sharing.threads)
        yield item
