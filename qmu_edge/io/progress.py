"""Progress of long work on stderr: what, how far, which epoch and loss, images per second, time left.

On a terminal one line is redrawn, with a bar, no wider than the terminal and without colours under NO_COLOR;
elsewhere, and under CI, a line is written every ten seconds, so that a log stays readable. Methods and
training call `start` and `advance`; nothing else prints.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Final, Protocol, TextIO

from qmu_edge.errors import printable

REDRAW_S: Final = 0.2
LOG_EVERY_S: Final = 10.0
_BAR: Final = 24  # columns
_ANEW: Final = "\r\x1b[K"  # the line of a terminal


class Watcher(Protocol):
    """Who is told of every epoch beside the person, see `qmu_edge.plugins.observers`."""

    def epoch(self, label: str, number: int, values: Mapping[str, float], /) -> None:
        """An epoch of a piece of work is done."""

    def finish(self) -> None:
        """The piece of work is over."""


class Progress:
    """Counts images of one piece of work at a time.

    Attributes:
        watcher: Who is told of epochs; None for nobody.
    """

    watcher: Watcher | None = None

    def __init__(self, stream: TextIO | None = None, warnings: TextIO | None = None) -> None:
        """Write to `stream`, None for silence; warnings go to `warnings` where there is none."""
        self._stream, self._warnings = stream, warnings
        self._redrawn = stream is not None and is_for_people(stream)
        self._every = REDRAW_S if self._redrawn else LOG_EVERY_S
        self._label = self._epoch = ""
        self._total = 0
        self._done = 0
        self._started = self._shown = 0.0

    @classmethod
    def stderr(cls) -> "Progress":
        """Progress for a person or a log."""
        return cls(sys.stderr)

    def start(self, label: str, total_images: int) -> None:
        """Begin a piece of work of `total_images` images (0 when unknown)."""
        self._over()
        self._label, self._epoch, self._total, self._done = label, "", total_images, 0
        self._started = self._shown = time.monotonic()

    def advance(self, images: int) -> None:
        """Count images that are done, and show it when it is time."""
        self._done += images
        now = time.monotonic()
        if self._stream is not None and now - self._shown >= self._every:
            self._shown = now
            self._show(now)

    def epoch(self, number: int, of: int, loss: float, accuracy: float | None = None) -> None:
        """Tell of an epoch that is done its mean loss, and the share of its images that were recognised."""
        right = "" if accuracy is None else f", accuracy {accuracy:.1%}"
        self._epoch = f", epoch {number} of {of}, loss {loss:.4g}{right}"
        if self.watcher is not None:
            counted = {} if accuracy is None else {"accuracy": accuracy}
            self.watcher.epoch(self._label, number, {"loss": loss, **counted})

    def finish(self, note: str = "") -> None:
        """End the piece of work with one line: how long it took, at what rate, and `note`."""
        self._over()
        if self._stream is None:
            return
        elapsed = time.monotonic() - self._started
        text = f"{self._label}: {elapsed:.1f} s"
        if self._done:
            text += f", {self._done / max(elapsed, 1e-9):,.0f} images/s"
        self._write(f"{text}{self._epoch}{', ' + note if note else ''}", end="\n")

    def _over(self) -> None:
        if self.watcher is not None:
            self.watcher.finish()

    def note(self, text: str) -> None:
        """Say one thing, on a line of its own."""
        if self._stream is not None:
            self._write(text, end="\n")

    def warn(self, text: str) -> None:
        """Say one thing that whoever wants no progress wants to know all the same."""
        if self._stream is not None or self._warnings is None:
            self.note(text)
        else:
            self._warnings.write(f"{printable(text)}\n")
            self._warnings.flush()

    def _show(self, now: float) -> None:
        rate = self._done / max(now - self._started, 1e-9)
        text = f"{self._label}: {self._done:,} images, {rate:,.0f} images/s{self._epoch}"
        if self._total:
            left = max(0, self._total - self._done) / max(rate, 1e-9)
            text = (
                f"{self._label}: {self._done / self._total:4.0%}, {rate:,.0f} images/s, {left:.0f} s left"
                f"{self._epoch}"
            )
        if self._redrawn and self._stream is not None:
            self._put(f"{_ANEW}{_drawn(self._stream, printable(text), self._done, self._total)}")
        else:
            self._write(text, end="\n")

    def _write(self, text: str, end: str) -> None:
        self._put(f"{_ANEW if self._redrawn else ''}{printable(text)}{end}")

    def _put(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def is_for_people(stream: TextIO) -> bool:
    """Whether a line of a stream can be redrawn, and somebody looks on."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream.isatty() and not dumb and not os.environ.get("CI")


def _drawn(stream: TextIO, text: str, done: int, total: int) -> str:
    """A bar and a text in one line, for a terminal of whatever width; without rich, the text alone."""
    try:
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return text
    console, row = Console(file=stream), Table.grid(padding=(0, 1))
    bar = [ProgressBar(total=total, completed=min(done, total), width=_BAR)] if total else []
    row.add_row(*bar, Text(text, no_wrap=True, overflow="ellipsis"))
    with console.capture() as found:
        console.print(row, end="")
    return found.get().rstrip("\n")
