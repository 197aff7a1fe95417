"""Numbers from logits: probability, accuracy, predictions, and how sure a share can be.

Shapes: n samples, k classes. Logits are float (n, k), labels integers (n,) from 0 to k - 1.
Accuracies are fractions, never percent.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
Z_ONE_SIDED = 1.6448536269514722  # one-sided


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Turn logits (n, k) into probabilities float64 (n, k).

    >>> softmax(np.log([[1.0, 3.0]])).round(6).tolist()
    [[0.25, 0.75]]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def require_labels(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse logits and labels that do not belong together.

    Args:
        logits: Float (n, k).
        labels: Integers (n,).

    Raises:
        ConfigError: Empty, other shapes, not integers, or a label outside 0..k-1.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"labels {labels.dtype} {labels.shape} for logits {logits.shape}; "
            "allowed integers (n,) for (n, k)"
        )
    if labels.size == 0:
        raise ConfigError("an empty set has no accuracy; allowed at least one sample")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ConfigError(f"labels from {labels.min()} to {labels.max()}; allowed 0 to {logits.shape[1] - 1}")


def confidence(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Give the softmax probability of the true class, float64 (n,).

    Raises:
        ConfigError: See `require_labels`.

    >>> confidence(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, 0])).round(6).tolist()
    [0.75, 0.5]
    """
    require_labels(logits, labels)
    return np.asarray(softmax(logits)[np.arange(labels.size), labels], dtype=np.float64)


def accuracy(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Give the fraction of samples whose largest logit is the true class.

    Raises:
        ConfigError: See `require_labels`.

    >>> accuracy(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([1, 1]))
    0.5
    """
    require_labels(logits, labels)
    return float((logits.argmax(axis=1) == labels).mean())


def prediction_histogram(logits: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count how often each class is predicted, int64 (classes,).

    Raises:
        ConfigError: The logits are not (n, classes).

    >>> prediction_histogram(np.array([[0.0, 1.0], [3.0, 1.0], [0.0, 2.0]]), 2).tolist()
    [1, 2]
    """
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ConfigError(f"logits {logits.shape}; allowed (n, {classes})")
    return np.bincount(logits.argmax(axis=1), minlength=classes).astype(np.int64)


def binomial_interval(k: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Give the Wilson score interval of a share of k in n, as fractions; 95 % if nothing else is said.

    Args:
        k: Hits, 0 to n.
        n: Trials, at least 1.
        z: So many deviations.

    Raises:
        ConfigError: Other values.

    Source: Wilson, "Probable Inference", JASA 22 (1927).

    >>> low, high = binomial_interval(5, 10)  # z**2 = 3.8415: (5 + 1.92) / 13.84 -+ 0.2634
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    if not 0 <= k <= n or n == 0:
        raise ConfigError(f"{k} of {n} is no share; allowed 0 <= k <= n and n >= 1")
    share, z2 = k / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # none and all are exact ends; rounding would miss them by a hair
    return (centre - half if k else 0.0), (centre + half if k < n else 1.0)


def effective_number(groups: NDArray[Any], intraclass: float) -> float:
    """How many unrelated images say as much as these, which belong to people.

    Args:
        groups: Whose each image is (n,).
        intraclass: Correlation of one person's images, 0 to 1.

    Source: Kish, Survey Sampling (1965).

    >>> effective_number(np.array([1, 2, 3]), 0.5)
    3.0
    >>> effective_number(np.array([1, 1, 1]), 1.0)
    1.0
    """
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes * (1 + (sizes - 1) * intraclass)).sum())


def intraclass(values: NDArray[np.float64], groups: NDArray[Any]) -> float:
    """The correlation of two values of one group: the mean product of their deviations, in variances.

    It may be below 0 by chance, and is to be cut only after estimates were averaged. 0 without groups.

    Args:
        values: One for each image (n,).
        groups: Whose each image is (n,).

    >>> intraclass(np.array([1.0, 1.0, 5.0, 5.0]), np.array([0, 0, 1, 1]))
    1.0
    >>> intraclass(np.array([1.0, 5.0, 1.0, 5.0]), np.array([0, 0, 1, 1]))
    -1.0
    """
    place, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    deviations = values - values.mean()
    pairs, squares = float((sizes * (sizes - 1)).sum()), float((deviations**2).sum())
    if pairs == 0 or squares == 0:
        return 0.0
    sums = np.bincount(place, deviations)
    return (float((sums**2).sum()) - squares) / pairs / (squares / len(values))
