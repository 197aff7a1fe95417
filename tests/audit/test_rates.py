"""Shares at few false alarms, and intervals that hold the threshold's own error."""

import math

import numpy as np
import pytest

from qmu_edge.audit.rates import area, binomial_ends, found, share_of, told
from qmu_edge.verify.mia import auc


def below(k: int, n: int, rate: float) -> float:
    """The obvious: how often at most k of n images exceed."""
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(("n", "rate"), [(1, 0.01), (30, 0.01), (50, 0.001), (700, 0.01), (1000, 0.001)])
def test_ends_of_the_threshold_are_those_of_the_binomial(n: int, rate: float) -> None:
    low, high = binomial_ends(n, rate)
    assert below(low, n, rate) >= 0.0125 and (low == 0 or below(low - 1, n, rate) < 0.0125)
    assert below(high, n, rate) >= 1 - 0.0125 > below(high - 1, n, rate) if high else low == 0


def test_the_share_is_the_obvious_one() -> None:
    rng = np.random.default_rng(0)
    members, unseen = rng.normal(1.0, 1.0, 90), rng.normal(0.0, 1.0, 250)
    for rate in (0.01, 0.001):
        allowed = math.floor(rate * len(unseen))
        threshold = min(t for t in unseen if sum(u > t for u in unseen) <= allowed)
        wanted = sum(m > threshold for m in members) / len(members)
        assert found(members, unseen, rate, 90.0, 250.0).value == pytest.approx(wanted, abs=1e-4)


def test_intervals_hold_the_truth_of_infinitely_many_images() -> None:
    """Of normal scores one deviation apart the true share is known; 5 % may be missed, and fewer are."""
    from statistics import NormalDist

    rng, normal, missed = np.random.default_rng(1), NormalDist(), 0
    for _ in range(200):
        members, unseen = rng.normal(1.0, 1.0, 60), rng.normal(0.0, 1.0, 300)
        found_there = found(members, unseen, 0.01, 60.0, 300.0)
        truth = 1 - normal.cdf(normal.inv_cdf(0.99) - 1.0)
        assert found_there.low is not None and found_there.high is not None
        missed += not found_there.low <= truth <= found_there.high
    assert missed <= 10


def test_images_of_few_people_say_less() -> None:
    rng = np.random.default_rng(2)
    members, unseen = rng.normal(1.0, 1.0, 100), rng.normal(0.0, 1.0, 400)
    all_apart, alike = (told(members, unseen, m, n) for m, n in ((100.0, 400.0), (5.0, 20.0)))
    for one, other in zip(all_apart, alike, strict=True):
        assert one.value == other.value
        assert other.low is not None and one.low is not None and other.low <= one.low
        assert other.high is not None and one.high is not None and other.high >= one.high
    plain = auc(members, unseen)
    assert area(members, unseen, 100.0, 400.0).low == pytest.approx(plain.low, abs=1e-4)


def test_a_share_of_none_and_of_all() -> None:
    assert share_of(np.zeros(20, bool), 20.0).low == 0.0
    assert share_of(np.ones(20, bool), 3.5).high == 1.0
