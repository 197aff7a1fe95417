"""RMIA: is the file surer of an image than others would let expect, more than of images that nobody saw?

An image's ratio is the probability that the file gives to its true class, over the mean of networks with and
without the image. Its score is the share of unseen images whose ratio it dominates.

Source: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024,
    arXiv:2312.03262; offline, with networks that never saw the image alone.
Differs: all references stand as one probability, that of their mean scaled confidence (the project keeps the
    mean and no network); the probability of an image is that of its mean scaled confidence over its views.
    Thresholds are taken on the ratio itself: at any gamma the score grows with it, so the curve is the same,
    but scores of images that dominate all of the unseen are tied.
Shapes: m images that are attacked, n unseen ones.
"""

from typing import Final

import numpy as np
from jaxtyping import Float

from qmu_edge.audit.attack import Attack, on_compared
from qmu_edge.audit.rates import QUANTITIES, judged
from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.verify.residual import Values

SHIFT: Final = 0.3  # a of the paper, its default
GAMMA: Final = 1.0


def log_ratio(
    score: Float[np.ndarray, " m"], expected: Float[np.ndarray, " m"], shift: float
) -> Float[np.ndarray, " m"]:
    """log(p / q): p of the file's scaled confidence, q = ((1 + a) r + 1 - a) / 2 of the references' r.

    >>> odds = np.log([3.0, 1.0])  # p = .75, r = .5, and q = (1.3 * .5 + .7) / 2 = .675
    >>> round(float(np.exp(log_ratio(odds[:1], odds[1:], 0.3)[0])), 4)  # .75 / .675
    1.1111
    """
    reference = np.exp(-np.logaddexp(0.0, -expected))
    mixed = ((1 + shift) * reference + (1 - shift)) / 2
    return np.asarray(-np.logaddexp(0.0, -score) - np.log(mixed))


def rmia(
    ratios: Float[np.ndarray, " m"], unseen: Float[np.ndarray, " n"], gamma: float = GAMMA
) -> Float[np.ndarray, " m"]:
    """The share of unseen images whose ratio is at most 1 / gamma of an image's own; logarithms are given.

    >>> rmia(np.log([2.0, 0.5]), np.log([1.0, 2.0, 3.0, 0.25])).tolist()
    [0.75, 0.25]
    """
    order = np.sort(unseen)
    return np.asarray(np.searchsorted(order, ratios - np.log(gamma), side="right") / len(order))


def score(file: Attacked, known: Known) -> Values:
    """The logarithm of each image's ratio (n,), for a set with expectations."""
    assert known.expected is not None
    return log_ratio(file.scores(known), known.expected, SHIFT)


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen; the area is the forgotten images' mean score."""
    return judged(subject, score)


ATTACK: Final = Attack(
    run=run, work=on_compared, quantities=QUANTITIES,
    summary="surer of an image than others are, beyond unseen images",
    calibrated=True,
)  # fmt: skip
