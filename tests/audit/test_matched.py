"""Unseen images of the same classes as the forgotten."""

import numpy as np

from qmu_edge.audit.matched import matched, pairs
from tests.audit.worlds import subject


def test_both_sides_have_equally_many_of_each_class_and_none_twice() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 50), rng.integers(1, 6, 80)
    first, second = pairs(a, b, rng)
    assert np.array_equal(a[first], b[second])
    assert len(set(first.tolist())) == len(first) and len(set(second.tolist())) == len(second)
    wanted = sum(min((a == label).sum(), (b == label).sum()) for label in range(6))
    assert len(first) == wanted > 0


def test_without_a_common_class_there_is_no_pair() -> None:
    first, second = pairs(np.zeros(3, np.int64), np.ones(3, np.int64), np.random.default_rng(0))
    assert len(first) == len(second) == 0


def test_sets_are_cut_to_size_in_pairs() -> None:
    forgotten, unseen = matched(subject(n=40), most=10)
    assert len(forgotten) == len(unseen) == 10
    assert np.array_equal(forgotten.labels, unseen.labels)
