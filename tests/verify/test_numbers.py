"""Metrics, membership inference and parity: the clever against the obvious."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.verify.metrics import accuracy, binomial_interval, confidence, prediction_histogram, softmax
from qmu_edge.verify.mia import auc, mia_auc, scaled_confidence
from qmu_edge.verify.parity import Parity, compare, require_parity

_scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


def _slow_auc(x: Any, y: Any) -> float:
    return float(np.mean([[(a > b) + 0.5 * (a == b) for b in y] for a in x]))


@given(_scores, _scores)
def test_auc_equals_the_double_loop_and_sklearn(x: list[float], y: list[float]) -> None:
    found = auc(np.array(x), np.array(y))
    assert found.value == pytest.approx(_slow_auc(x, y))
    assert found.value == pytest.approx(roc_auc_score([1] * len(x) + [0] * len(y), x + y))
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1


def test_delong_variance_equals_its_definition() -> None:
    chance = np.random.default_rng(0)
    x, y = chance.normal(0.7, 1, 40), chance.normal(0, 1, 60)
    wins = (x[:, None] > y).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / 40 + wins.mean(axis=0).var(ddof=1) / 60
    found = auc(x, y)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * variance**0.5, rel=1e-5)


def test_delong_interval_covers_the_truth() -> None:
    chance = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = auc(chance.normal(0, 1, 80), chance.normal(0, 1, 80))
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_auc_edges() -> None:
    assert auc(np.array([np.inf]), np.array([-np.inf])).value == 1.0
    assert (auc(np.array([1.0]), np.array([1.0, 2.0])).low) == 0.0
    for x, y in (([], [1.0]), ([np.nan], [1.0])):
        with pytest.raises(ConfigError):
            auc(np.array(x), np.array(y))


def test_scaled_confidence_is_stable_and_right() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
    labels = np.arange(50) % 7
    p = confidence(logits, labels)
    np.testing.assert_allclose(scaled_confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-6)
    sure = np.array([[1000.0, 0.0, 0.0]])
    assert scaled_confidence(sure, np.array([0]))[0] == pytest.approx(1000 - np.log(2))
    same = mia_auc(logits, labels, logits, labels)
    assert same.value == 0.5
    with pytest.raises(ConfigError):
        scaled_confidence(logits[:, :1], np.zeros(50, int))


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_labels_that_do_not_fit() -> None:
    logits = np.eye(3)
    for labels in ([0, 1], [0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0]):
        with pytest.raises(ConfigError):
            accuracy(logits, np.array(labels))
    with pytest.raises(ConfigError, match="empty"):
        accuracy(np.empty((0, 3)), np.empty(0, int))
    with pytest.raises(ConfigError):
        prediction_histogram(logits, 4)


def test_binomial_interval() -> None:
    assert binomial_interval(0, 10)[0] == 0.0 and binomial_interval(10, 10)[1] == 1.0
    assert binomial_interval(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    for k, n in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ConfigError):
            binomial_interval(k, n)


def test_parity() -> None:
    logits = np.random.default_rng(0).normal(size=(2000, 5))
    require_parity(compare(logits, logits))
    swapped = logits.copy()
    swapped[:3] = -swapped[:3]
    with pytest.raises(ExportError, match=r"99\.8500%"):
        require_parity(compare(logits, swapped))
    with pytest.raises(ExportError, match="on 10 inputs"):
        require_parity(Parity(10, 1.0, 0.0, 0.0))
    with pytest.raises(ExportError, match="finite"):
        compare(logits, logits * np.nan)
    with pytest.raises(ConfigError):
        compare(logits, logits[:5])
    with pytest.raises(ConfigError):
        compare(logits[:0], logits[:0])
