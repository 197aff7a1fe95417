"""The papers' SVM attack: recognises members, is lost among strangers, survives constants."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.errors import ConfigError


def _logits(n: int, margin: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Make logits whose true class stands out by `margin` on average."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, n)
    logits = chance.normal(0, 1, (n, 4))
    logits[np.arange(n), labels] += margin
    return logits.astype(np.float32), labels


def test_efficacy_is_low_for_members_and_high_for_strangers() -> None:
    retain, test = _logits(600, 8, 0), _logits(400, 0, 1)
    members = mia_efficacy(*retain, *test, *_logits(200, 8, 2), draws=3)
    strangers = mia_efficacy(*retain, *test, *_logits(200, 0, 3), draws=3)
    assert members.mean < 0.1 and strangers.mean > 0.8
    assert (members.size, members.draws) == (400, 3) and members.std < 0.05


def test_the_seed_decides() -> None:
    sets = (*_logits(300, 2, 0), *_logits(300, 1, 1), *_logits(100, 2, 2))
    first = mia_efficacy(*sets, draws=2, size=100, seed=1)
    assert first == mia_efficacy(*sets, draws=2, size=100, seed=1)
    assert first != mia_efficacy(*sets, draws=2, size=100, seed=2)


def test_constant_confidence_does_not_crash() -> None:
    flat, labels = np.zeros((30, 4), np.float32), np.arange(30) % 4
    found = mia_efficacy(flat, labels, flat, labels, flat, labels, draws=2)
    assert found.mean in (0.0, 1.0) and found.std == 0.0
    one = mia_efficacy(flat[:1], labels[:1], flat[:1], labels[:1], flat, labels, draws=1)
    assert one.size == 1


def test_what_cannot_be_attacked() -> None:
    logits, labels = _logits(10, 1, 0)
    sets = (logits, labels, logits, labels)
    with pytest.raises(ConfigError, match="empty"):
        mia_efficacy(*sets, logits[:0], labels[:0])
    with pytest.raises(ConfigError, match="0 draws"):
        mia_efficacy(*sets, logits, labels, draws=0)
    with pytest.raises(ConfigError, match="allowed 0 to 3"):
        mia_efficacy(*sets, logits, labels + 4)
