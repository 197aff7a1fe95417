"""Where the time of a training step goes, as a trace that chrome://tracing and Perfetto open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress

WARM_UP: Final = 2
STEPS: Final = 10


class _Profiled(Progress):
    """Progress that records some steps: `advance` is what all loops call once in each."""

    def __init__(self, stream: TextIO | None, path: Path) -> None:
        super().__init__(stream)
        self._path = path
        self._steps = 0
        self._recorder: Any = None

    def advance(self, images: int) -> None:
        super().advance(images)
        self._steps += 1
        if self._steps == WARM_UP:
            from torch.profiler import profile

            self._recorder = profile(acc_events=True)  # one cycle: nothing is cleared, nothing is warned of
            self._recorder.start()
        elif self._steps == WARM_UP + STEPS:
            self.write()

    def write(self) -> None:
        """End the recording, if it has begun."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder.export_chrome_trace(str(self._path))
            self._recorder = None


@contextmanager
def profiled(stream: TextIO | None, path: Path | None) -> Iterator[Progress]:
    """Progress on `stream` that records ten steps to `path`, after two; plain progress without a path.

    A shorter run has fewer steps recorded, one of two steps or less leaves no file. A trace holds names of
    operations and times: no images, no weights, no names of samples.

    Raises:
        ConfigError: There is no such folder.
    """
    if path is None:
        yield Progress(stream)
        return
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--profile {path}: allowed is a file in a folder that exists")
    progress = _Profiled(stream, path)
    try:
        yield progress
    finally:
        progress.write()
