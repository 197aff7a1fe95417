"""Figures from logits, against the obvious way to compute them."""

import numpy as np
import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.verify.metrics import (
    accuracy,
    binomial_interval,
    confidence,
    prediction_histogram,
    require_labels,
    softmax,
)


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_labels_that_do_not_fit() -> None:
    logits = np.eye(3)
    require_labels(logits, np.array([0, 1, 2]))
    for labels in ([0, 1], [0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0]):
        with pytest.raises(ConfigError):
            accuracy(logits, np.array(labels))
    with pytest.raises(ConfigError, match="empty"):
        accuracy(np.empty((0, 3)), np.empty(0, int))
    with pytest.raises(ConfigError):
        prediction_histogram(logits, 4)


def test_figures_equal_the_obvious() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (50, 4)), rng.integers(0, 4, 50)
    predictions = [row.index(max(row)) for row in logits.tolist()]
    assert accuracy(logits, labels) == sum(a == b for a, b in zip(predictions, labels, strict=True)) / 50
    assert prediction_histogram(logits, 4).tolist() == [predictions.count(k) for k in range(4)]
    powers = np.exp(logits)
    np.testing.assert_allclose(confidence(logits, labels), (powers.T / powers.sum(1)).T[range(50), labels])


def test_binomial_interval() -> None:
    assert binomial_interval(0, 10)[0] == 0.0 and binomial_interval(10, 10)[1] == 1.0
    assert binomial_interval(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    for k, n in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ConfigError):
            binomial_interval(k, n)
