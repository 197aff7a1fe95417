"""Work in a process of its own: it may end that process, or run for ever, and harms nothing else."""

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

_WHOLE: Final = b"."  # behind what was told to the end
_BLOCK: Final = 1 << 16


def apart(work: Callable[[], bytes], seconds: float) -> bytes | None:
    """What some work gives in a fork of this process; None where it raises, or ends the process.

    Args:
        work: Starts no thread that it needs to be running already: threads do not outlive a fork.
        seconds: How long it may take.

    Raises:
        TimeoutError: It takes longer.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(reader)
            said = work() + _WHOLE
            with os.fdopen(writer, "wb") as told:
                told.write(said)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        said = _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said.removesuffix(_WHOLE) if said.endswith(_WHOLE) else None


def _read(reader: int, until: float) -> bytes:
    said = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        more = os.read(reader, _BLOCK)
        if not more:
            return said
        said += more
