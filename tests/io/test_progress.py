"""Progress lines: silent without a stream, redrawn on a terminal, rare in a log."""

import re
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
def terminal(log: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stream that says it is a terminal."""
    log.isatty = lambda: True
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
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


def test_terminal_line_is_redrawn_in_place_with_a_bar(terminal: Any, clock: list[float]) -> None:
    shown = Progress(terminal)
    shown.start("training", 4)
    for _ in range(2):
        clock[0] += 1
        shown.advance(2)
    shown.finish()
    _, half, whole, end = text(terminal).split("\r\x1b[K")
    assert half.endswith("training:  50%, 2 images/s, 1 s left") and whole.endswith(", 0 s left")
    assert end == "training: 2.0 s, 2 images/s\n"
    assert 12 <= half.count("\u2501") <= 25 and "\n" not in half + whole


def test_epoch_loss_and_accuracy_are_told_in_a_log_and_on_a_terminal(
    terminal: Any, tmp_path: Path, clock: list[float]
) -> None:
    with (tmp_path / "plain").open("w+") as log:
        for shown in (Progress(terminal), Progress(log)):
            shown.start("training", 100)
            shown.epoch(3, 30, 0.23456, 0.9123)
            clock[0] += 20
            shown.advance(50)
            shown.epoch(4, 30, 0.2)
            shown.finish()
            shown.start("export", 0)
            shown.finish()  # which knows of no epoch
        assert text(log) == (
            "training:  50%, 2 images/s, 20 s left, epoch 3 of 30, loss 0.2346, accuracy 91.2%\n"
            "training: 20.0 s, 2 images/s, epoch 4 of 30, loss 0.2\nexport: 0.0 s\n"
        )
    assert "epoch 3 of 30" in text(terminal) and "epoch 4 of 30, loss 0.2\n" in text(terminal)


def test_a_line_is_never_wider_than_the_terminal(
    terminal: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = Progress(terminal)
    shown.start("a very long name of a piece of work " * 3, 10)
    clock[0] += 1
    shown.advance(5)
    (line,) = text(terminal).split("\r\x1b[K")[1:]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert len(plain) <= 40 and plain.endswith("\u2026")


@pytest.mark.parametrize(("name", "coloured"), [("NO_COLOR", False), ("COLUMNS", True)])
def test_colours_are_left_out_where_nobody_wants_them(
    name: str, coloured: bool, terminal: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(name, "80")
    shown = Progress(terminal)
    shown.start("training", 10)
    clock[0] += 1
    shown.advance(5)
    assert bool(re.search(r"\x1b\[[0-9;]+m", text(terminal))) is coloured


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_where_nobody_looks_on_lines_are_plain(
    name: str, value: str, terminal: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    shown = Progress(terminal)
    shown.start("training", 100)
    for _ in range(10):
        clock[0] += 1
        shown.advance(10)
    assert text(terminal) == "training: 100%, 10 images/s, 0 s left\n"


def test_without_rich_the_line_has_no_bar(
    terminal: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    shown = Progress(terminal)
    shown.start("training", 10)
    clock[0] += 1
    shown.advance(5)
    assert text(terminal) == "\r\x1b[Ktraining:  50%, 5 images/s, 1 s left"


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


def test_a_warning_is_said_where_no_progress_is_wanted(log: Any, tmp_path: Path) -> None:
    for stream, warnings in ((None, log), (log, None), (log, log)):
        progress = Progress(stream, warnings)
        log.truncate(0)
        log.seek(0)
        progress.warn("no\x1b[2J value")
        assert text(log) == "no\\x1b[2J value\n"
    quiet = Progress(None, log)
    log.truncate(0)
    quiet.start("training", 10)
    quiet.advance(10)
    quiet.note("of no matter")
    quiet.finish()
    Progress().warn("nobody is told")
    assert text(log) == ""
