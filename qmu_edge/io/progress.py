"""Progress of long work on stderr: what, how far, images per second, time left.

On a terminal one line is redrawn; elsewhere a line is written every ten seconds, so that a CI log stays
readable. Methods and training call `start` and `advance`; nothing else prints.
"""

import sys
import time
from typing import Final, TextIO

from qmu_edge.errors import printable

REDRAW_S: Final = 0.2
LOG_EVERY_S: Final = 10.0


class Progress:
    """Counts images of one piece of work at a time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream`; None for silence."""
        self._stream = stream
        self._every = REDRAW_S if stream is not None and stream.isatty() else LOG_EVERY_S
        self._label = ""
        self._total = 0
        self._done = 0
        self._started = self._shown = 0.0

    @classmethod
    def stderr(cls) -> "Progress":
        """Progress for a person or a log."""
        return cls(sys.stderr)

    def start(self, label: str, total_images: int) -> None:
        """Begin a piece of work of `total_images` images (0 when unknown)."""
        self._label, self._total, self._done = label, total_images, 0
        self._started = self._shown = time.monotonic()

    def advance(self, images: int) -> None:
        """Count images that are done, and show it when it is time."""
        self._done += images
        now = time.monotonic()
        if self._stream is not None and now - self._shown >= self._every:
            self._shown = now
            self._show(now)

    def finish(self, note: str = "") -> None:
        """End the piece of work with one line: how long it took, at what rate, and `note`."""
        if self._stream is None:
            return
        elapsed = time.monotonic() - self._started
        text = f"{self._label}: {elapsed:.1f} s"
        if self._done:
            text += f", {self._done / max(elapsed, 1e-9):,.0f} images/s"
        self._write(f"{text}{', ' + note if note else ''}", end="\n")

    def note(self, text: str) -> None:
        """Say one thing, on a line of its own."""
        if self._stream is not None:
            self._write(text, end="\n")

    def _show(self, now: float) -> None:
        rate = self._done / max(now - self._started, 1e-9)
        text = f"{self._label}: {self._done:,} images, {rate:,.0f} images/s"
        if self._total:
            left = max(0, self._total - self._done) / max(rate, 1e-9)
            text = f"{self._label}: {self._done / self._total:4.0%}, {rate:,.0f} images/s, {left:.0f} s left"
        self._write(text, end="" if self._every == REDRAW_S else "\n")

    def _write(self, text: str, end: str) -> None:
        stream = self._stream
        if stream is not None:
            redraw = "\r\x1b[K" if stream.isatty() else ""
            stream.write(f"{redraw}{printable(text)}{end}")
            stream.flush()
