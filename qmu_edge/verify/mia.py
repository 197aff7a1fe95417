"""Membership inference by threshold: can a forgotten sample be told from one never trained on?

The score of a sample is its logit-scaled true-class confidence. The number is the area under the
ROC curve over all thresholds: 0.5 when forget and held-out samples look alike, above when forgotten
samples still look trained on, below when they look odder than unseen ones (the Streisand effect).
It is a population test, weak against a patient attacker; per-sample audits are in `qmu_edge.audit`.

Source: score: Hayes et al., arXiv:2403.01218. AUC: Hanley and McNeil, Radiology 143 (1982).
    Interval: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); midranks as in Sun and Xu,
    IEEE Signal Processing Letters 21 (2014).
Differs: no shadow models, no fitted threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError
from qmu_edge.verify.metrics import Z_95, require_labels


@dataclass(frozen=True, slots=True)
class Auc:
    """An area under the ROC curve with its 95 % interval, all between 0 and 1."""

    value: float
    low: float
    high: float


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank values (n,) from 1, ties sharing their mean rank.

    >>> midranks(np.array([10.0, 30.0, 20.0, 20.0])).tolist()
    [1.0, 4.0, 2.5, 2.5]
    """
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group.reshape(-1)], dtype=np.float64)


def auc(members: NDArray[Any], nonmembers: NDArray[Any]) -> Auc:
    """Estimate the probability that a member scores higher than a non-member, ties counting half.

    Args:
        members: Scores (m,), infinities allowed.
        nonmembers: Scores (n,).

    Returns:
        The area and its DeLong interval, cut to 0..1. One sample on a side gives 0..1. Two sets
        that do not overlap have no spread that DeLong could see: the interval shrinks to a point.

    Raises:
        ConfigError: An empty side, not one axis, or NaN.

    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])).value  # wins 1, 1, 1 and a tie: 3.5 / 4
    0.875
    """
    x, y = members.astype(np.float64), nonmembers.astype(np.float64)
    if x.ndim != 1 or y.ndim != 1 or not x.size or not y.size:
        raise ConfigError(f"scores {x.shape} and {y.shape}; allowed one axis and at least one each")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ConfigError("a membership score is NaN; allowed numbers")
    m, n = x.size, y.size
    both = midranks(np.concatenate((x, y)))
    over = (both[:m] - midranks(x)) / n  # share of non-members below each member
    under = 1 - (both[m:] - midranks(y)) / m  # share of members above each non-member
    value = float(over.mean())
    if m == 1 or n == 1:
        return Auc(value, 0.0, 1.0)
    half = Z_95 * math.sqrt(over.var(ddof=1) / m + under.var(ddof=1) / n)
    return Auc(value, max(0.0, value - half), min(1.0, value + half))


def scaled_confidence(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Give log(p / (1 - p)) of the true class from logits: z_y - logsumexp of the others.

    Args:
        logits: Float (n, k), k at least 2.
        labels: Integers (n,).

    Returns:
        float64 (n,), finite for finite logits however confident the model is.

    Raises:
        ConfigError: See `require_labels`; or one class only.

    >>> scaled_confidence(np.log([[3.0, 1.0]]), np.array([0])).round(6).tolist()  # log(3)
    [1.098612]
    """
    require_labels(logits, labels)
    if logits.shape[1] < 2:
        raise ConfigError("membership needs at least 2 classes, found 1")
    rows = np.arange(labels.size)
    others = logits.astype(np.float64)
    true = others[rows, labels]
    others[rows, labels] = -np.inf
    top = others.max(axis=1)
    return np.asarray(true - top - np.log(np.exp(others - top[:, None]).sum(axis=1)))


def views(images: NDArray[np.uint8], *, flip: bool) -> list[NDArray[np.uint8]]:
    """The images (n, c, h, w) as they are, and mirrored where training mirrors them.

    >>> [view.tolist() for view in views(np.array([[[[1, 2]]]], np.uint8), flip=True)]
    [[[[[1, 2]]]], [[[[2, 1]]]]]
    """
    return [images, np.ascontiguousarray(images[..., ::-1])] if flip else [images]


def mean_score(logits: Sequence[NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The mean scaled confidence over views of the same images; 0 where there is one class only.

    Args:
        logits: Of each view, float (n, k): of the images as they are, and mirrored where training does it.
        labels: Integers (n,).

    Raises:
        ConfigError: See `require_labels`.

    >>> mean_score([np.log([[3.0, 1.0]]), np.log([[1.0, 1.0]])], np.array([0])).round(3).tolist()
    [0.549]
    """
    if logits[0].shape[1] < 2:
        return np.zeros(len(labels))
    return np.asarray(np.mean([scaled_confidence(one, labels) for one in logits], axis=0))


def mia_auc(
    forget_logits: NDArray[Any],
    forget_labels: NDArray[Any],
    held_out_logits: NDArray[Any],
    held_out_labels: NDArray[Any],
) -> Auc:
    """Compare forget samples with held-out samples; 0.5 is ideal.

    Args:
        forget_logits: Float (m, k).
        forget_labels: Integers (m,).
        held_out_logits: Float (n, k), of samples never trained on.
        held_out_labels: Integers (n,).

    Raises:
        ConfigError: See `scaled_confidence` and `auc`.
    """
    return auc(
        scaled_confidence(forget_logits, forget_labels),
        scaled_confidence(held_out_logits, held_out_labels),
    )
