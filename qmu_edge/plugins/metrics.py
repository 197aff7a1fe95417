"""Metrics: plug-ins that measure something of a released file, for report and receipt. No gate reads them.

One is given what the exported file makes of each set under onnxruntime, and returns one number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from qmu_edge.errors import QmuEdgeError
from qmu_edge.io.progress import Progress
from qmu_edge.plugins.registry import called


class Outputs(NamedTuple):
    """What a file makes of the n images of a set: logits float32 (n, k), and their labels int64 (n,)."""

    logits: np.ndarray
    labels: np.ndarray


Metric = Callable[[Mapping[str, Outputs]], float]
"""What an entry point of the group `qmu_edge.metrics` leads to.

Its argument has "forget" and "retain", and "test" and "validation" where there are such images.
"""


def measured_by(
    names: Sequence[str], sets: Mapping[str, Outputs], progress: Progress
) -> dict[str, float | None]:
    """The values of metrics by name; None of one that raised, which is said.

    Each gets copies: what it does to them changes nothing else.
    """
    found: dict[str, float | None] = {}
    for name in names:
        try:
            found[name] = _value(name, {key: Outputs(*map(np.copy, of)) for key, of in sets.items()})
        except (QmuEdgeError, MemoryError) as error:
            progress.warn(f"{error}; it has no value")
            found[name] = None
    return found


def _value(name: str, sets: Mapping[str, Outputs]) -> float:
    one, metric = called("metric", name)
    with one.guarded():
        value = metric(sets)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"found {str(value)[:80]}, allowed is a finite number")
        return float(value)
