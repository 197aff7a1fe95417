"""Reading a file that may be anything: a pipe that never ends, a folder, ten gigabytes of nothing."""

import os
import stat
from pathlib import Path

from qmu_edge.errors import QmuEdgeError


def read_regular(path: Path, *, limit: int, error: type[QmuEdgeError]) -> bytes:
    """The whole content of a regular file.

    Args:
        path: Links are followed.
        limit: Most bytes it may have.
        error: What to raise.

    Raises:
        QmuEdgeError: An `error`: there is no such file, it is not a regular one, it is larger than
            `limit`, or it cannot be read.
    """
    try:
        # One descriptor for check and read; O_NONBLOCK so that nobody waits for a pipe's other end.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise error(f"{path}: not a regular file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except IsADirectoryError:
        raise error(f"{path}: not a regular file") from None
    except (OSError, ValueError) as problem:  # a path with a zero byte is a ValueError
        raise error(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(data) > limit:
        raise error(f"{path}: larger than the allowed {limit} bytes")
    return data
