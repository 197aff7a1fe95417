"""How fast a file runs on this device, and how much memory it takes."""

import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmu_edge.verify.session import OrtRunner

WARM_UP: int = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one run: percentiles 50, 95 and 99."""

    p50: float
    p95: float
    p99: float


def latency(runner: OrtRunner, images: NDArray[np.uint8], *, batch: int, repeats: int = 30) -> Latency:
    """Time runs of `batch` images, of which the first few do not count.

    Args:
        runner: The file.
        images: uint8 (n, c, h, w), n at least 1; repeated where they are fewer than a batch.
        batch: Images of each run.
        repeats: Runs that count.
    """
    some = np.resize(images, (batch, *images.shape[1:]))
    for _ in range(WARM_UP):
        runner.logits(some, batch=batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        runner.logits(some, batch=batch)
        seconds.append(time.perf_counter() - start)
    return Latency(*(float(1e3 * np.percentile(seconds, p)) for p in (50, 95, 99)))


def peak_mebibytes() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
