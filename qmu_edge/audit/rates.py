"""How well scores tell members from images that were never seen: area, and shares at few false alarms.

Mean areas hide what matters to a person: whether anybody at all is found with certainty. So the share of
members that an attack finds is given where it raises a false alarm in one of a hundred, and one of a
thousand, unseen images.

Intervals hold the threshold's own error: with few unseen images nobody knows where one of a thousand lies.
They are of as many images of unrelated people as say as much (`effective_number`).

Source: low false alarms: Carlini et al., arXiv:2112.03570. Area: `qmu_edge.verify.mia.auc`. Shares: Wilson,
    JASA 22 (1927). Threshold: order statistics, e.g. David and Nagaraja, Order Statistics (2003), 7.1.
Differs: an interval of both errors together, each at 97.5 % (Bonferroni): conservative.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.verify.figures import found_at
from qmu_edge.verify.metrics import binomial_interval
from qmu_edge.verify.mia import auc
from qmu_edge.verify.residual import Values

RATES: Final = (0.01, 0.001)
AREA: Final = "area under the curve"
FOUND: Final = ("found at 1 percent false alarms", "found at 0.1 percent false alarms")
QUANTITIES: Final = (AREA, *FOUND)
GUESSES: Final = (0.5, *RATES)  # what each of them is for whoever knows nothing
_Z: Final = 2.241402727604947  # two-sided 97.5 % quantile of the normal distribution
_TAIL: Final = 0.0125

Scorer = Callable[[Attacked, Known], Values]


def judged(subject: Subject, score: Scorer, members: Known | None = None) -> tuple[Finding, ...]:
    """Area and shares for the original and the file, of a score that is higher for what was trained on.

    Args:
        subject: Whose files.
        score: Of a file on each image of a set (n,).
        members: The forgotten ones when None.
    """
    members = subject.forgotten if members is None else members
    sizes = subject.effective(members), subject.effective(subject.unseen)
    rows = [
        told(score(file, members), score(file, subject.unseen), *sizes)
        for file in (subject.original, subject.file)
    ]
    return tuple(
        Finding(quantity=name, original=before, file=after, unknowing=Estimate(guess))
        for name, before, after, guess in zip(QUANTITIES, *rows, GUESSES, strict=True)
    )


def told(members: Values, unseen: Values, m: float, n: float) -> tuple[Estimate, ...]:
    """The area, and the share of members found at each of `RATES`.

    Args:
        members: Scores of images that were trained on.
        unseen: Scores of images that were not.
        m: Effective number of members.
        n: Effective number of unseen images.
    """
    return area(members, unseen, m, n), *(found(members, unseen, rate, m, n) for rate in RATES)


def area(members: Values, unseen: Values, m: float, n: float) -> Estimate:
    """The area under the curve; its interval is wider by what images of the same people say less.

    >>> area(np.array([3.0, 2.0]), np.array([1.0, 2.0]), 2.0, 2.0).value  # wins 1, 1, 1 and a tie: 3.5 / 4
    0.875
    """
    there = auc(members, unseen)
    wider = math.sqrt(max(len(members) / m, len(unseen) / n, 1.0))
    low, high = (there.value + wider * (end - there.value) for end in (there.low, there.high))
    return Estimate(_rounded(there.value), _rounded(max(0.0, low)), _rounded(min(1.0, high)))


def found(members: Values, unseen: Values, rate: float, m: float, n: float) -> Estimate:
    """The share of members above the threshold that at most `rate` of the unseen exceed, see `told`.

    Both ends are of thresholds that lie at the ends of what the unseen images say about the true one.

    >>> low_and_high = found(np.full(100, 9.0), np.arange(1000) / 1000, 0.01, 100.0, 1000.0)
    >>> low_and_high.value, round(low_and_high.low, 2), low_and_high.high
    (1.0, 0.95, 1.0)
    >>> found(np.full(100, 9.0), np.zeros(50), 0.001, 100.0, 50.0).low  # the true threshold may lie above all
    0.0
    """
    fewest, most = binomial_ends(max(1, int(n)), rate)
    ordered, share = np.sort(unseen)[::-1], len(unseen) / max(1, int(n))
    top = ordered[math.ceil(fewest * share) - 1] if fewest else np.inf
    at = math.floor(most * share)
    bottom = ordered[at] if at < len(ordered) else -np.inf
    size = max(1, int(m))
    low, high = (
        binomial_interval(round(float((members > threshold).mean()) * size), size, _Z)[end]
        for end, threshold in enumerate((top, bottom))
    )
    value = found_at(members, unseen, rate)
    return Estimate(_rounded(value), _rounded(min(low, value)), _rounded(max(high, value)))


def binomial_ends(n: int, rate: float) -> tuple[int, int]:
    """So few, and so many, of n images exceed a threshold of this rate, with 1.25 % beyond either end.

    >>> binomial_ends(1000, 0.01), binomial_ends(50, 0.001)
    ((4, 18), (0, 1))
    """
    counts = np.arange(n + 1)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    chosen = factorial[n] - factorial - factorial[::-1]
    below = np.cumsum(np.exp(chosen + counts * math.log(rate) + (n - counts) * math.log1p(-rate)))
    return int(np.searchsorted(below, _TAIL)), int(np.searchsorted(below, 1 - _TAIL))


def share_of(hits: NDArray[np.bool_], n: float) -> Estimate:
    """A share of images with its 95 % Wilson interval, for `n` effective ones.

    >>> share_of(np.array([True] * 5 + [False] * 5), 10.0)
    Estimate(value=0.5, low=0.2366, high=0.7634)
    """
    share, size = float(hits.mean()), max(1, int(n))
    low, high = binomial_interval(round(share * size), size)
    return Estimate(_rounded(share), _rounded(min(low, share)), _rounded(max(high, share)))


def _rounded(value: float) -> float:
    return round(float(value), 4)
