"""RMIA beside the definition written out, and on files whose truth is known."""

import math

import numpy as np
import pytest

from qmu_edge.audit import rmia
from tests.audit.worlds import subject


def slow(
    p: list[float], r: list[float], p_z: list[float], r_z: list[float], a: float, gamma: float
) -> list[float]:
    """Definition 4 of the paper, image by image, from probabilities."""

    def ratio(probability: float, reference: float) -> float:
        return probability / (0.5 * ((1 + a) * reference + 1 - a))

    pairs = list(zip(p_z, r_z, strict=True))
    return [
        sum(ratio(x, own) / ratio(z, other) >= gamma for z, other in pairs) / len(pairs)
        for x, own in zip(p, r, strict=True)
    ]


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_scores_are_those_of_the_definition(gamma: float) -> None:
    rng = np.random.default_rng(0)
    odds = [rng.normal(1.0, 3.0, 40) for _ in range(2)] + [rng.normal(0.0, 3.0, 60) for _ in range(2)]
    p, r, p_z, r_z = ([1 / (1 + math.exp(-x)) for x in one] for one in odds)
    ratios, unseen = (rmia.log_ratio(odds[i], odds[i + 1], 0.3) for i in (0, 2))
    assert rmia.rmia(ratios, unseen, gamma).tolist() == slow(p, r, p_z, r_z, 0.3, gamma)


def test_the_ratio_orders_images_as_the_score_does() -> None:
    rng = np.random.default_rng(1)
    ratios, unseen = rng.normal(0.5, 1.0, 50), rng.normal(0.0, 1.0, 80)
    for gamma in (0.5, 1.0, 3.0):
        scores = rmia.rmia(np.sort(ratios), unseen, gamma)
        assert (np.diff(scores) >= 0).all()


def test_probabilities_near_one_are_told_apart() -> None:
    ratios = rmia.log_ratio(np.array([20.0, 30.0]), np.array([0.0, 0.0]), 0.3)
    assert ratios[1] > ratios[0]


def test_a_file_that_knows_is_told_from_one_that_has_forgotten() -> None:
    area, low, lowest = rmia.run(subject(known_before=6.0))
    assert area.original is not None and area.file is not None
    assert area.original.low is not None and area.original.low > 0.6
    assert area.file.low is not None and area.file.high is not None
    assert area.file.low <= 0.5 <= area.file.high
    assert low.original is not None and low.unknowing is not None and lowest.unknowing is not None
    assert (low.unknowing.value, lowest.unknowing.value) == (0.01, 0.001)
    # the area is the mean score
    there = subject(known_before=6.0)
    own, others = (rmia.score(there.original, of) for of in (there.forgotten, there.unseen))
    scores = rmia.rmia(own, others)
    assert area.original.value == pytest.approx(scores.mean(), abs=1e-4)
