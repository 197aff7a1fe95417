"""Observers: plug-ins that are told how training and unlearning go, for TensorBoard and the like.

They get numbers of whole epochs, never images, names or digests of them. Still what they write is made of
the data, and lies where no purge reaches: receipts say so once one has been told anything. None can end a
run: what one raises becomes one line, and it is told nothing more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from qmu_edge.errors import QmuEdgeError
from qmu_edge.io.progress import Progress
from qmu_edge.plugins.registry import Plugin, plugins, require_confirmed


class Observer(Protocol):
    """What an entry point of the group `qmu_edge.observers` makes, called without arguments."""

    def start(self, project: Path, run: str) -> None:
        """A run begins: the project's folder, and a name as `training-1`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """An epoch has ended, the first is 1: "loss", and "accuracy" where it was counted."""

    def finish(self) -> None:
        """The run is over, or was given up."""


class Observers:
    """Tells observers of the epochs of one command, run by run.

    Nothing is made of an observer before a run has an epoch to tell.
    """

    def __init__(
        self, plugins: Sequence[Plugin], project: Path, progress: Progress, first: Callable[[], None]
    ) -> None:
        """`first` is called before any of them is told anything."""
        self._left = [*plugins]
        self._project, self._progress, self._first = project, progress, first
        self._running: dict[Plugin, Any] = {}
        self._runs = 0

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Tell of an epoch of the piece of work that is called `label`."""
        if not self._left:
            return
        if not self._running:
            self._runs += 1
            if self._runs == 1:
                self._first()
            self._each(lambda one: self._start(one, f"{label}-{self._runs}"))
        self._each(lambda one: self._running[one].log(number, dict(values)))

    def finish(self) -> None:
        """The piece of work is over."""
        if self._running:
            self._each(lambda one: self._running[one].finish())
            self._running = {}

    def _start(self, one: Plugin, run: str) -> None:
        made = one.load()()
        made.start(self._project, run)
        self._running[one] = made

    def _each(self, tell: Callable[[Plugin], object]) -> None:
        for one in [*self._left]:
            try:
                with one.guarded():
                    tell(one)
            except (QmuEdgeError, MemoryError) as error:
                self._left.remove(one)
                self._running.pop(one, None)
                self._progress.warn(f"{error}; it is told nothing more, and the work goes on")


@contextmanager
def observed(
    names: Sequence[str], project: Path, progress: Progress, first: Callable[[], None]
) -> Iterator[None]:
    """Tell the observers of these names of all that `progress` is told inside.

    Raises:
        ConfigError: One is not installed, or this user has not confirmed it; nothing has begun.
    """
    found = plugins(("observer", name) for name in names)
    require_confirmed(found)
    if not found:
        yield
        return
    progress.watcher = watcher = Observers(found, project, progress, first)
    try:
        yield
    finally:
        progress.watcher = None
        watcher.finish()
