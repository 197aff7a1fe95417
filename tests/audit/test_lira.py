"""LiRA beside the definition written out, and on files whose truth is known."""

from statistics import NormalDist

import numpy as np
import pytest

from qmu_edge.audit import lira
from qmu_edge.verify.mia import auc
from tests.audit.worlds import require_told_from_forgotten, subject


def test_deviations_order_images_as_the_published_score_does() -> None:
    """Offline: the share of a normal distribution, fitted to networks without the image, below the score."""
    rng = np.random.default_rng(0)
    score, mean = rng.normal(0.0, 2.0, 50), rng.normal(0.0, 2.0, 50)
    slow = [NormalDist(m, 1.3).cdf(s) for s, m in zip(score, mean, strict=True)]
    assert np.array_equal(np.argsort(lira.deviations(score, mean, 1.3)), np.argsort(slow))


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    expected = rng.normal(0.0, 2.0, 60)
    score = 1.5 + 2.0 * expected + rng.normal(0.0, 0.5, 60)
    slope, level = np.polyfit(expected, score, 1)
    found = lira.line_through(expected, score)
    rest = score - level - slope * expected
    assert found == pytest.approx((level, slope, float(np.sqrt((rest**2).sum() / 58))))
    flat = lira.line_through(np.ones(40), score[:40])
    assert flat.level == pytest.approx(score[:40].mean()) and np.isfinite(flat.slope)


def test_a_file_that_knows_is_told_from_one_that_has_forgotten() -> None:
    plain = subject()
    found = lira.run(plain)
    require_told_from_forgotten(found)
    easy = plain.original.scores(plain.forgotten), plain.original.scores(plain.unseen)
    assert found[0].original is not None
    assert auc(*easy).value < found[0].original.value  # without references, easy images hide it
