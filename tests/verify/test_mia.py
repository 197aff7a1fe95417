"""Membership inference: the area under the ROC curve against its definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from qmu_edge.errors import ConfigError
from qmu_edge.verify.metrics import confidence
from qmu_edge.verify.mia import auc, mia_auc, midranks, scaled_confidence

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


@given(_scores)
def test_midranks_equal_the_mean_of_the_ranks_that_a_value_has(values: list[float]) -> None:
    ordered = sorted(values)
    places = {v: [i + 1 for i, w in enumerate(ordered) if w == v] for v in values}
    assert midranks(np.array(values)).tolist() == [sum(places[v]) / len(places[v]) for v in values]
