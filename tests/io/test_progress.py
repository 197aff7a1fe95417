"""Progress lines: silent without a stream, redrawn on a terminal, rare in a log."""

import sys
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.io.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time is whatever the only element says."""
    now = [100.0]
    monkeypatch.setattr("qmu_edge.io.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def log(tmp_path: Path) -> Any:
    """A stream that is no terminal."""
    with (tmp_path / "log").open("w+", newline="") as stream:
        yield stream


@pytest.fixture
def terminal(log: Any) -> Any:
    """A stream that says it is a terminal."""
    log.isatty = lambda: True
    return log


def text(stream: Any) -> str:
    """All that was written."""
    stream.seek(0)
    return str(stream.read())


def test_without_a_stream_nothing_is_written(capfd: pytest.CaptureFixture[str], clock: list[float]) -> None:
    silent = Progress()
    silent.start("training", 10)
    clock[0] += 1000
    silent.advance(10)
    silent.note("hello")
    silent.finish("done")
    assert capfd.readouterr() == ("", "")


def test_finish_says_time_rate_and_note(log: Any, clock: list[float]) -> None:
    shown = Progress(log)
    shown.start("training", 3000)
    clock[0] += 1.5
    shown.advance(3000)
    shown.finish("accuracy 93 %")
    assert text(log) == "training: 1.5 s, 2,000 images/s, accuracy 93 %\n"


def test_log_gets_a_line_every_ten_seconds(log: Any, clock: list[float]) -> None:
    shown = Progress(log)
    shown.start("training", 100)
    for _ in range(25):
        clock[0] += 1
        shown.advance(2)
    assert text(log) == ("training:  20%, 2 images/s, 40 s left\ntraining:  40%, 2 images/s, 30 s left\n")


def test_terminal_line_is_redrawn_in_place(terminal: Any, clock: list[float]) -> None:
    shown = Progress(terminal)
    shown.start("training", 4)
    for _ in range(2):
        clock[0] += 1
        shown.advance(2)
    shown.finish()
    assert text(terminal) == (
        "\r\x1b[Ktraining:  50%, 2 images/s, 1 s left"
        "\r\x1b[Ktraining: 100%, 2 images/s, 0 s left"
        "\r\x1b[Ktraining: 2.0 s, 2 images/s\n"
    )


def test_unknown_total_shows_the_count(log: Any, clock: list[float]) -> None:
    shown = Progress(log)
    shown.start("reading", 0)
    clock[0] += 20
    shown.advance(5000)
    assert text(log) == "reading: 5,000 images, 250 images/s\n"


def test_work_of_no_time_and_no_images_divides_by_nothing(terminal: Any, clock: list[float]) -> None:
    shown = Progress(terminal)
    shown.start("nothing", 0)
    shown.finish()
    shown.start("instant", 5)
    shown.advance(5)
    shown.finish()
    clock[0] += 10
    shown.start("more than told", 1)
    clock[0] += 10
    shown.advance(5)
    written = text(terminal)
    assert "nothing: 0.0 s\n" in written
    assert written.endswith("more than told: 500%, 0 images/s, 0 s left")


def test_stderr_is_for_people() -> None:
    assert Progress.stderr()._stream is sys.stderr
