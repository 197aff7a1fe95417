"""A metric: how much more the file is surprised by forgotten images than by retained ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def surprise(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy of logits (n, k) for labels (n,), in nats.

    >>> round(surprise(np.array([[0.0, 0.0], [0.0, 100.0]]), np.array([0, 1])), 3)
    0.347
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    right = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(1)) - right).mean())


def gap(sets: Mapping[str, Any]) -> float:
    """The difference of the two.

    Args:
        sets: "forget" and "retain", perhaps "test" and "validation": each has `logits` (n, k) and `labels`
            (n,) of what the exported file makes of the images under onnxruntime.

    Returns:
        A finite number. What is raised instead is said, and the receipt has null.
    """
    forget, retain = sets["forget"], sets["retain"]
    return surprise(forget.logits, forget.labels) - surprise(retain.logits, retain.labels)
