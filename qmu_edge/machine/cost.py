"""What a piece of work cost: wall-clock seconds and peak memory of this process."""

import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict, TypeVar

Result = TypeVar("Result")


class Cost(TypedDict):
    """Wall-clock seconds, and MiB of resident memory at the highest point."""

    seconds: float
    peak_mb: float


def measured_cost(work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Run `work` and say what it took.

    Returns:
        Its result, and the cost; memory since the start of the process where the system cannot reset its
        mark.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: restart the high-water mark
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, {"seconds": round(seconds, 3), "peak_mb": round(_peak_bytes() / 2**20, 1)}


def _peak_bytes() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else peak * 1024.0
