"""The search for the best setting of a method: geometric, extended at the border until the best lies inside.

A place p stands for the method's own setting times STEP**p. The first is 0. Where nothing was tried on one
side of the best, the next place is one further on that side, above first; where both sides were tried, it is
half way to the farther neighbour, or to the better one of two that are equally far. So every method gets the
same number of trials, however far away its best is, and those that are left refine it.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

STEP: Final = 4.0
TRIALS: Final = 6

Stop = Literal["inside", "border"]


def best(tried: Mapping[float, float]) -> float:
    """The place with the smallest score; of equals the nearest to 0.

    >>> best({0: 0.5, 1: 0.2, 2: 0.2})
    1
    """
    return min(tried, key=lambda place: (tried[place], abs(place)))


def following(tried: Mapping[float, float]) -> float:
    """The place to try after those in `tried`, by their scores.

    >>> following({}), following({0: 0.5, 1: 0.2}), following({0: 0.5, 1: 0.2, 2: 0.3})
    (0.0, 2.0, 1.5)
    """
    if not tried:
        return 0.0
    middle = best(tried)
    above = min((p for p in tried if p > middle), default=None)
    below = max((p for p in tried if p < middle), default=None)
    if above is None:
        return middle + 1.0
    if below is None:
        return middle - 1.0
    return (middle + min(above, below, key=lambda p: (-abs(p - middle), tried[p]))) / 2.0


def stopped(tried: Mapping[float, float]) -> Stop:
    """Whether a search ended with its best between two others, or with nothing tried beyond it.

    >>> stopped({0: 0.5, 1: 0.2, 2: 0.3}), stopped({0: 0.5, 1: 0.2})
    ('inside', 'border')
    """
    return "inside" if min(tried) < best(tried) < max(tried) else "border"


def searched(score: Callable[[float], float], trials: int) -> dict[float, float]:
    """Scores of `trials` places in the order in which they were tried; a setting that fails has infinity.

    Args:
        score: Of the factor STEP**place on the method's own setting; smaller is better.
        trials: At least 1.
    """
    tried: dict[float, float] = {}
    while len(tried) < trials:
        place = following(tried)
        tried[place] = score(STEP**place)
    return tried
