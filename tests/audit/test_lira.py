"""LiRA beside the definition written out, and on files whose truth is known."""

from statistics import NormalDist

import numpy as np
import pytest

from qmu_edge.audit import lira
from tests.audit.worlds import subject


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
    area, low, _ = lira.run(subject())
    assert area.original is not None and area.original.low is not None and area.original.low > 0.9
    assert area.file is not None and area.file.low is not None and area.file.high is not None
    assert area.file.low <= 0.5 <= area.file.high
    assert low.original is not None and low.file is not None and low.original.value > 10 * low.file.value
    plain = subject()
    easy = plain.original.scores(plain.forgotten), plain.original.scores(plain.unseen)
    from qmu_edge.verify.mia import auc

    assert auc(*easy).value < area.original.value  # without references, easy images hide it
