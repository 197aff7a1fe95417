"""Work in a process of its own: what it gives, and every way in which it may fail to."""

import os
import signal
import time
from pathlib import Path

import pytest

from qmu_edge.io.apart import apart


@pytest.mark.parametrize(
    "said", [b"", b"fine", b"." * 300_000], ids=["nothing", "a word", "more than a pipe holds"]
)
def test_what_it_gives_arrives_whole(said: bytes) -> None:
    assert apart(lambda: said, 60.0) == said


def raises() -> bytes:
    raise ValueError("not told to anybody")


def killed() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


@pytest.mark.parametrize("work", [raises, killed, lambda: os._exit(0)], ids=["raises", "is killed", "exits"])
def test_work_that_fails_gives_nothing_and_harms_nobody(
    work: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert apart(work, 60.0) is None  # type: ignore[arg-type]
    assert capfd.readouterr().err == ""


def test_work_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def work() -> bytes:
        started.write_text(str(os.getpid()))
        time.sleep(600.0)
        return b""

    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        apart(work, 1.0)
    assert time.monotonic() - begun < 60.0
    with pytest.raises(ProcessLookupError):  # neither running nor waiting to be collected
        os.kill(int(started.read_text()), 0)
