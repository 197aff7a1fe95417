"""What the plots of a verdict are made of: sums over many images, and nothing of a single one.

They are measured with the verdict and stored with it, so that a page about it needs no images. A file is
described on forgotten and on unseen images: how their scaled confidence is spread, and how many of the
forgotten a threshold on it finds for a given share of false alarms.

Counts of a part of the images (a bar, a class) are rounded to fives, and where fewer images than `LEAST` are
forgotten nothing is split up or drawn at all: what a file makes of one image is that person's.

Shapes: n images of a set, b bars, r rates. All shares are fractions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import Compared, Values
from qmu_edge.verify.verdict import unseen_of

LEAST: Final = 20
BARS: Final = 20
MOST_CLASSES: Final = 40
LEAST_TESTED: Final = 10  # an accuracy on fewer would be about single images
_UNIT: Final = 5
# False alarms from one in a thousand to all, evenly on a logarithmic axis.
RATES: Final = tuple(round(float(rate), 6) for rate in np.geomspace(0.001, 1.0, 31))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What one file makes of forgotten and of unseen images.

    Attributes:
        forgotten, unseen: Images in each bar (b), in fives.
        found: Share of the forgotten that score above a threshold, at each of `RATES` (r).
    """

    forgotten: tuple[int, ...]
    unseen: tuple[int, ...]
    found: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """Accuracy on the test images of one class, of the original and of the file.

    Attributes:
        label: Its number; names may be people's.
        images: How many, in fives.
        before, after: Shares that are recognised.
        forgotten: Training images of it that are forgotten, in fives; None in older reports of few.
    """

    label: int
    images: int
    before: float
    after: float
    forgotten: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that is drawn about one verdict.

    Attributes:
        forgotten, unseen: Images compared.
        people: How many people's the forgotten ones are; None where that is not known of each.
        edges: Log-odds at which bars begin and end (b + 1); empty when nothing is drawn.
        original, file: The file before, and the one that was judged; None when nothing is drawn.
        classes: Those whose accuracy has changed most, by number.
        other_classes: How many are left out of these, or have too few test images.
    """

    forgotten: int
    unseen: int
    people: int | None = None
    edges: tuple[float, ...] = ()
    original: Spread | None = None
    file: Spread | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    other_classes: int = 0

    @property
    def few(self) -> bool:
        """Whether there are too few images for any part of them to be told."""
        return min(self.forgotten, self.unseen) < LEAST


def figures_of(sets: Mapping[SetName, Compared], *, people: int | None = None) -> Figures | None:
    """What is drawn about a file that was compared with the original; None where nothing was forgotten.

    Args:
        sets: What was compared.
        people: How many people's images were forgotten; None where that is not known.
    """
    forget, unseen = sets.get(SetName.FORGET), unseen_of(sets)
    if forget is None:
        return None
    found = Figures(
        forgotten=len(forget.labels), unseen=0 if unseen is None else len(unseen.labels), people=people
    )
    if unseen is None or found.few:
        return found
    classes, others = _classes(sets.get(SetName.TEST), forget)
    found = replace(found, classes=classes, other_classes=others)
    if forget.score_before is None:
        return found
    old, new = _scores(forget.score_before, unseen.score_before), (forget.score, unseen.score)
    edges = bars((*old, *new))
    return replace(
        found, edges=tuple(edges.tolist()), original=_spread(*old, edges), file=_spread(*new, edges)
    )


def found_at(forgotten: Values, unseen: Values, rate: float) -> float:
    """The share of forgotten images above the lowest threshold that at most `rate` of the unseen exceed.

    Args:
        forgotten: Scores (m,).
        unseen: Scores (n,).
        rate: Of false alarms.

    >>> found_at(np.array([0.0, 2.0, 3.0, 9.0]), np.arange(4.0), 0.25)  # threshold 2
    0.5
    >>> found_at(np.array([0.0, 2.0, 3.0, 9.0]), np.arange(4.0), 0.1)  # threshold 3: no false alarm
    0.25
    """
    allowed = int(np.floor(rate * len(unseen) + 1e-9))
    threshold = np.sort(unseen)[::-1][allowed] if allowed < len(unseen) else -np.inf
    return float((forgotten > threshold).mean())


def bars(scores: tuple[Values, ...]) -> Values:
    """Edges (b + 1) between which all but a few scores lie, at whole log-odds; the outer bars take the rest.

    >>> bars((np.linspace(-3.2, 6.9, 1000),))[[0, -1]].tolist()
    [-4.0, 7.0]
    """
    low, high = np.quantile(np.concatenate(scores), (0.005, 0.995)).tolist()
    start = math.floor(low)
    return np.linspace(start, max(math.ceil(high), start + 1), BARS + 1).round(3)


def in_fives(counts: NDArray[Any]) -> tuple[int, ...]:
    """Counts (b,) rounded to fives, so that no single image shows.

    >>> in_fives(np.array([0, 1, 2, 3, 7, 8, 12]))
    (0, 0, 0, 5, 5, 10, 10)
    """
    return tuple(((counts + _UNIT // 2) // _UNIT * _UNIT).tolist())


def _scores(forgotten: Values, unseen: Values | None) -> tuple[Values, Values]:
    return forgotten, np.zeros(0) if unseen is None else unseen


def _spread(forgotten: Values, unseen: Values, edges: Values) -> Spread:
    inside = [np.histogram(np.clip(s, edges[0], edges[-1]), edges)[0] for s in (forgotten, unseen)]
    return Spread(
        forgotten=in_fives(inside[0]), unseen=in_fives(inside[1]),
        found=tuple(round(found_at(forgotten, unseen, rate), 4) for rate in RATES),
    )  # fmt: skip


def _classes(test: Compared | None, forget: Compared) -> tuple[tuple[ClassAccuracy, ...], int]:
    """Accuracy of the classes where it has changed most, by label, and how many are left out."""
    if test is None or test.right_before is None:
        return (), 0
    found = np.unique(test.labels)
    labels = found[np.bincount(test.labels, minlength=test.classes)[found] >= LEAST_TESTED]
    counts, gone = (np.bincount(of.labels, minlength=test.classes)[labels] for of in (test, forget))
    before, after = (
        np.bincount(test.labels, right, test.classes)[labels] / counts
        for right in (test.right_before, test.right)
    )
    chosen = np.sort(np.argsort(-np.abs(after - before), kind="stable")[:MOST_CLASSES])
    images, forgotten = in_fives(counts), in_fives(gone)
    told = tuple(
        ClassAccuracy(
            label=int(labels[i]), images=images[i], before=round(float(before[i]), 4),
            after=round(float(after[i]), 4), forgotten=forgotten[i],
        )
        for i in chosen
    )  # fmt: skip
    return told, len(found) - len(told)
