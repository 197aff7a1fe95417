"""BaVarIA beside the posterior updated network by network, and on files whose truth is known."""

import math

import numpy as np
import pytest

from qmu_edge.audit import bavaria
from tests.audit.worlds import require_told_from_forgotten, subject


def slow(score: float, seen: list[float], mean: float, variance: float, k: float, v: float) -> float:
    """The normal-inverse-gamma posterior, one network after another; deviations of its t distribution."""
    shape, rate = v / 2, v * variance / 2
    for x in seen:
        rate += k * (x - mean) ** 2 / (2 * (k + 1))
        mean, k, shape = (k * mean + x) / (k + 1), k + 1, shape + 0.5
    return (score - mean) / math.sqrt(rate / shape * (k + 1) / k)


@pytest.mark.parametrize("networks", [1, 2, 5])
def test_it_is_the_posterior_of_one_network_after_another(networks: int) -> None:
    rng = np.random.default_rng(0)
    score, seen = rng.normal(0.0, 2.0, 30), rng.normal(0.0, 1.0, (networks, 30))
    found = bavaria.predictive_deviations(
        score, seen, mean=0.4, variance=1.7, mean_weight=0.5, variance_weight=4.0
    )
    wanted = [slow(s, seen[:, i].tolist(), 0.4, 1.7, 0.5, 4.0) for i, s in enumerate(score.tolist())]
    assert found == pytest.approx(wanted)


def test_images_on_which_networks_differ_count_less() -> None:
    seen = np.array([[0.0, -3.0], [0.0, 3.0]])
    calm, restless = bavaria.predictive_deviations(np.full(2, 2.0), seen, mean=0.0, variance=1.0)
    assert calm > restless > 0


def test_a_file_that_knows_is_told_from_one_that_has_forgotten() -> None:
    require_told_from_forgotten(bavaria.run(subject()))
