"""Observers: curves of training and unlearning in TensorBoard, and in trackio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Curves below `logs/` of the project; look at them with `tensorboard --logdir logs`."""

    def start(self, project: Path, run: str) -> None:
        """A run begins."""
        from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

        self.writer: Any = SummaryWriter(str(project / "logs" / run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """An epoch has ended."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """The run is over."""
        self.writer.close()


class Trackio:
    """The same with trackio, which keeps runs in the user's own folder; `trackio show` draws them."""

    def start(self, project: Path, run: str) -> None:
        """A run begins."""
        import trackio  # type: ignore[import-not-found]

        self.run: Any = trackio
        self.run.init(project=project.name, name=run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """An epoch has ended."""
        self.run.log(dict(values), step=step)

    def finish(self) -> None:
        """The run is over."""
        self.run.finish()
