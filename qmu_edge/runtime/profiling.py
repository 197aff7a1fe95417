"""Profile of some training steps, as a trace that chrome://tracing and Perfetto open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress

WARM_UP: Final = 2
STEPS: Final = 10


class _Profiled(Progress):
    """Progress that profiles some steps: every training loop calls `advance` once a step."""

    def __init__(self, stream: TextIO | None, path: Path, warnings: TextIO | None) -> None:
        super().__init__(stream, warnings)
        self._path = path
        self._steps = 0
        self._recorder: Any = None

    def advance(self, images: int) -> None:
        super().advance(images)
        self._steps += 1
        if self._steps == WARM_UP:
            from torch.profiler import profile

            self._recorder = profile(acc_events=True)  # one cycle: avoids a warning that events are cleared
            self._recorder.start()
        elif self._steps == WARM_UP + STEPS:
            self.write()

    def write(self) -> None:
        """End the recording, if it has begun, and write the trace."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder.export_chrome_trace(str(self._path))
            self._recorder = None


@contextmanager
def profiled(stream: TextIO | None, path: Path | None, warnings: TextIO | None = None) -> Iterator[Progress]:
    """Progress on `stream` that writes a profile of ten steps, after two warm-up steps, to `path`.

    Without a path it is plain progress. A shorter run has fewer steps recorded; a run without recorded steps
    writes no file. A trace holds names of operations and times: no images, no weights, no names of samples.

    Raises:
        ConfigError: `path` is a folder, or its folder does not exist.
    """
    if path is None:
        yield Progress(stream, warnings)
        return
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--profile {path}: allowed is a file in a folder that exists")
    progress = _Profiled(stream, path, warnings)
    try:
        yield progress
    finally:
        progress.write()
