"""The residual: right on average, honest about its errors, and quiet where nothing can be known."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError
from qmu_edge.verify.metrics import Z_ONE_SIDED, binomial_interval, effective_number, intraclass
from qmu_edge.verify.residual import (
    Compared,
    Residual,
    Scope,
    Sensitivity,
    classes_residual,
    ratio_interval,
    samples_residual,
    sensitivity,
)
from tests.verify.worlds import TRACE, World, of_original, world

DRAWS = 400
MOST = 0.25


def residual(sets: Sequence[Compared], alike: float = 0.0) -> Residual:
    forget, retain, unseen = sets
    return samples_residual(forget, retain, unseen, intraclass=alike, references=4)


def drawn(n: int, share: float, **more: Any) -> list[World]:
    rng = np.random.default_rng(n)
    return [world(rng, n, share, **more) for _ in range(DRAWS)]


def holds(found: Residual, share: float) -> bool:
    """Whether the interval does not exclude a share."""
    return (found.low is None or found.low <= share) and (found.high is None or share <= found.high)


def each(sets: World, change: Callable[[Compared], Compared]) -> World:
    return World(*map(change, sets))


def there(scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert scores is not None
    return scores


@pytest.mark.parametrize("n", [1, 5, 20])
def test_what_never_saw_the_images_has_nothing_left_and_is_seldom_said_to_have(n: int) -> None:
    found = [residual(sets) for sets in drawn(n, 0.0)]
    assert np.mean([r.present for r in found]) <= 0.08
    assert np.mean([holds(r, 0.0) for r in found]) >= 0.88
    assert abs(np.median([0.0 if r.value is None else r.value for r in found])) < 0.1
    assert np.mean([r.excess_before for r in found]) == pytest.approx(TRACE, abs=0.1)


@pytest.mark.parametrize("n", [2, 20, 60])
def test_the_interval_covers_what_is_left(n: int) -> None:
    found = [residual(sets) for sets in drawn(n, 0.5)]
    assert np.mean([holds(r, 0.5) for r in found]) >= 0.85
    if n == 60:  # and it excludes what is not
        assert np.mean([holds(r, 0.0) or holds(r, 1.0) for r in found]) < 0.2
        assert np.median([0.0 if r.value is None else r.value for r in found]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("n", [1, 4, 8])
def test_a_trace_is_detected_as_often_as_was_said_before(n: int) -> None:
    worlds = drawn(n, 0.0)
    found = [residual(sets) for sets in worlds]
    detected = np.mean([r.detected for r in found])
    assert np.mean([r.power for r in found]) == pytest.approx(detected, abs=0.08)
    before = [of_original(w) for w in worlds]
    known = [sensitivity(w.retain, w.unseen, intraclass=0.0, references=4) for w in before]
    assert np.mean([k.power(float(n)) for k in known]) == pytest.approx(detected, abs=0.08)


def test_a_trace_that_is_estimated_below_zero_is_none_and_more_images_do_not_lower_its_power() -> None:
    """As of a network that has hardly been trained: of 1, 20 and 500 images 6.0, 4.7 and 2.7 % were said."""
    numbers = (1.0, 5.0, 20.0, 100.0, 500.0)
    for trace in (-0.5, -0.01, 0.0):
        known = Sensitivity(
            trace=trace, trace_spread=1.05, noise=1.0, unseen=200.0, intraclass=0.0, references=3
        )
        assert {round(known.power(n), 6) for n in numbers} == {round(known.power(1.0), 6)}
        assert 0.05 <= known.power(1.0) < 0.07 and known.proof(500.0, MOST) == pytest.approx(0.05, abs=1e-3)
    small = replace(known, trace=0.01)
    powers = [small.power(n) for n in numbers]
    assert powers == sorted(powers)


def test_forgetting_is_proved_as_often_as_was_said_before() -> None:
    worlds = drawn(30, 0.0)
    proved = [r.high is not None and r.high <= MOST for r in map(residual, worlds)]
    before = [of_original(w) for w in worlds]
    known = [sensitivity(w.retain, w.unseen, intraclass=0.0, references=4) for w in before]
    assert 0.2 < np.mean(proved) < 0.8
    assert np.mean([k.proof(30.0, MOST) for k in known]) == pytest.approx(np.mean(proved), abs=0.1)


def test_people_who_are_alike_say_less() -> None:
    worlds = drawn(20, 0.0, each=10, alike=0.5)
    assert np.mean([residual(sets, 0.5).present for sets in worlds]) <= 0.08
    assert np.mean([residual(sets, 0.0).present for sets in worlds]) > 0.15  # as if they were strangers
    one, none = (residual(worlds[0], alike) for alike in (0.5, 0.0))
    assert none.effective == 20.0 and one.effective == pytest.approx(20 / 5.5)
    assert one.excess == none.excess


def test_references_on_another_scale_change_nothing() -> None:
    sets = world(np.random.default_rng(0), 20, 0.5)
    other = residual(each(sets, lambda s: replace(s, references=7.0 + 3.0 * there(s.references))))
    for ours, theirs in ((residual(sets).value, other.value), (residual(sets).high, other.high)):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_original_itself_has_everything_left() -> None:
    sets = of_original(world(np.random.default_rng(0), 20, 0.3))
    found = residual(sets)
    assert found.value == pytest.approx(1.0) and found.low == pytest.approx(1.0)
    assert (found.scope, found.n, found.references) == (Scope.SAMPLES, 20, 4)
    assert found.detected and found.present and found.excess == found.excess_before


def test_where_nothing_is_known_nothing_is_left_to_be_said() -> None:
    """A network that gives every image the same score, and one whose scores are the references'."""
    sets = world(np.random.default_rng(0), 20, 1.0)
    for level in (0.0, 3.3, -3.3, 1e4):
        flat = [replace(s, score=0 * s.score + level, score_before=0 * s.score + level) for s in sets]
        with np.errstate(all="raise"):
            found = residual(flat)
        assert (found.detected, found.present, found.low, found.high) == (False, False, None, None)
        assert found.power < 0.1
    known = each(sets, lambda s: replace(s, score=there(s.references), score_before=s.references))
    assert not residual(known).detected


def test_one_image_one_retained_and_classes_that_nobody_else_has() -> None:
    sets = world(np.random.default_rng(0), 1, 1.0)
    assert residual((sets.forget, sets.retain.take(np.arange(1)), sets.unseen)).n == 1
    left = sets.unseen.take(sets.unseen.labels != sets.forget.labels[0])
    with_class, without = residual(sets), residual((sets.forget, sets.retain, left))
    assert with_class.value is not None and without.value is not None
    assert without.power < with_class.power  # what is expected of the class is known less well
    far = [
        residual((replace(w.forget, labels=np.full(20, 4)), w.retain, w.unseen.take(w.unseen.labels != 4)))
        for w in drawn(20, 0.0)
    ]
    assert np.mean([r.present for r in far]) <= 0.08


@pytest.mark.parametrize("name", ["score", "score_before", "references"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_a_score_that_is_none_is_refused(name: str, which: int, value: float | None) -> None:
    sets = [*world(np.random.default_rng(0), 5, 1.0)]
    wrong: Any = None if value is None else np.append(getattr(sets[which], name)[:-1], value)
    if wrong is None and name == "score":
        return  # it is never missing
    sets[which] = replace(sets[which], **{name: wrong})
    with pytest.raises(ConfigError):
        residual(sets)


def test_a_part_of_a_set_is_of_the_same_images() -> None:
    forget = world(np.random.default_rng(0), 9, 1.0).forget
    for chosen in (np.array([5, 2]), np.arange(9) == 4):
        part = forget.take(chosen)
        for name in ("labels", "right", "score", "right_before", "score_before", "references", "people"):
            assert np.array_equal(getattr(part, name), getattr(forget, name)[chosen])
        assert part.classes == 5 and replace(forget, people=None).take(chosen).people is None


def test_the_effective_number_is_that_of_the_matrix_of_correlations() -> None:
    groups = np.random.default_rng(0).integers(0, 7, 40)
    for alike in (0.0, 0.3, 1.0):
        matrix = np.where(groups[:, None] == groups, alike, 0.0)
        np.fill_diagonal(matrix, 1.0)
        assert effective_number(groups, alike) == pytest.approx(40**2 / matrix.sum())


def test_the_correlation_is_the_mean_over_all_pairs_of_one_group() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 400)
    values = rng.normal(size=60)[groups] + rng.normal(size=400)
    assert intraclass(values, groups) == pytest.approx(slow_intraclass(values, groups))
    assert intraclass(values, groups) == pytest.approx(0.5, abs=0.15)
    chance = [intraclass(rng.normal(size=400), groups) for _ in range(50)]
    assert abs(np.mean(chance)) < 0.02 and min(chance) < 0 < max(chance)
    assert intraclass(values, np.arange(400)) == 0.0  # everybody alone
    with np.errstate(all="raise"):
        assert intraclass(np.full(400, 2.0), groups) == 0.0


def slow_intraclass(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    off = values - values.mean()
    pairs = [
        off[i] * off[j] for i, j in itertools.permutations(range(len(values)), 2) if groups[i] == groups[j]
    ]
    return float(np.mean(pairs) / np.mean(off**2))


def test_the_interval_of_a_ratio_is_what_the_two_estimates_do_not_contradict() -> None:
    """Fieller beside a walk over all ratios: c is not contradicted where a - c b is not far from 0."""
    grid = np.linspace(-3.0, 3.0, 60_001)
    for a, b, along in itertools.product((-0.2, 0.0, 0.4, 1.0), (0.6, 1.0), (-0.005, 0.0, 0.008)):
        covariance = np.array([[0.01, along], [along, 0.02]])
        variance = covariance[0, 0] - 2 * grid * along + grid**2 * covariance[1, 1]
        kept = grid[(a - grid * b) ** 2 <= Z_ONE_SIDED**2 * variance]
        ends = ratio_interval(a, b, covariance, Z_ONE_SIDED)
        assert ends == pytest.approx((kept[0], kept[-1]), abs=2e-4)


def classes(right: int, right_before: int, n: int = 50) -> Residual:
    """Of n images, of which so many are recognised."""
    hits = [np.arange(n) < k for k in (right, right_before)]
    labels, score = np.zeros(n, int), np.zeros(n)
    return classes_residual(
        Compared(labels=labels, classes=10, right=hits[0], score=score, right_before=hits[1])
    )


def test_the_residual_of_classes_is_a_quotient_of_accuracies() -> None:
    found = classes(10, 40)
    low, high = binomial_interval(10, 50, Z_ONE_SIDED)
    low_before, high_before = binomial_interval(40, 50, Z_ONE_SIDED)
    assert (found.value, found.excess, found.excess_before) == (0.25, 0.2, 0.8)
    assert (found.low, found.high) == pytest.approx((low / high_before, high / low_before))
    assert (found.scope, found.n, found.effective, found.references) == (Scope.CLASSES, 50, 50.0, 0)
    assert found.detected and found.present
    gone, blind = classes(0, 50), classes(0, 0)
    assert gone.value == 0.0 and not gone.present and gone.detected
    assert (blind.value, blind.high, blind.detected) == (None, None, False)
    with pytest.raises(ConfigError, match="the original"):
        classes_residual(replace(world(np.random.default_rng(0), 5, 1.0).forget, right_before=None))
