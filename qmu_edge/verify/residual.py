"""How much of what the original knew of some images does another file still know?

`rho` is a share: 1 for the original itself, 0 for a network that never saw the images. The score of an image
is its scaled confidence. What a network that never saw it would give it (easy or hard, of this class or that)
is predicted from *references*, small networks that did not see it, by a regression on images that no network
was trained on. What is left of the score is the *excess*. T is the mean excess over the request's images, and
rho = T(file) / T(original).

Errors. Unseen images give the spread of the excess where nothing is known, retained ones where all is known,
and the forgotten ones, where they are enough, their own; the widest counts. A file whose scores spread less
is put on the original's scale. A person's images are alike, so n of them say less than n images of n people:
the intraclass correlation, which is measured on other people's images, turns n into an effective number. The
interval is the set of all shares that the two means do not contradict (Fieller): it has no upper end where
the original itself cannot be told from a network that never saw the images.

Source: mean excess over a user: Kandpal et al., arXiv:2310.09266. Calibration by references: Watson et al.,
    arXiv:2111.08440. Between original and references: arXiv:2506.06112. Interval: Fieller, JRSS B 16 (1954).
    Effective number: Kish, Survey Sampling (1965).
Differs: a regression in place of a difference, so that references may be smaller and trained on less; one
    share for all images of a request, with an interval; the test is also made of the original.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError
from qmu_edge.verify.metrics import Z_ONE_SIDED, binomial_interval, effective_number

Values = NDArray[np.float64]

LEAST_UNSEEN: Final = 30  # fewer unseen images say nothing about the spread
LEAST_REFERENCES: Final = 2
ENOUGH: Final = 20  # forgotten images tell their own spread
MOST_FLATTENED: Final = 100.0
_LEAST_VARIANCE: Final = 1e-12  # no score is more exact than float32
_CLASS_PRIOR: Final = 5.0  # in unseen images: until so many say otherwise, a class is as easy as the others


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compared:
    """One set of n images, and what the files and the references make of it.

    Attributes:
        labels: Integers (n,), below `classes`.
        classes: How many there are.
        right: Which images the audited file recognises, bool (n,).
        score: Their scaled confidence under it, see `qmu_edge.verify.mia.mean_score`, float64 (n,).
        right_before, score_before: The same of the original file; None where it is not at hand.
        references: Mean score under networks that never saw the image, float64 (n,); None without.
        people: Whose each image is, as numbers (n,); None when each is somebody else's.
        requests: Which request names each image, as numbers (n,); None where it is one.
    """

    labels: NDArray[Any]
    classes: int
    right: NDArray[np.bool_]
    score: Values
    right_before: NDArray[np.bool_] | None = None
    score_before: Values | None = None
    references: Values | None = None
    people: NDArray[Any] | None = None
    requests: NDArray[Any] | None = None

    def take(self, chosen: NDArray[Any]) -> "Compared":
        """The images at these positions (m,), or where a mask (n,) is true."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Compared(**{k: v[chosen] if isinstance(v, np.ndarray) else v for k, v in parts.items()})


class Scope(StrEnum):
    """What a residual is about: samples whose classes stay, or whole classes."""

    SAMPLES = "samples"
    CLASSES = "classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What is left, as a share of what the original knew, with an interval: 5 % lie beyond either end.

    Attributes:
        scope: Samples or classes.
        value: rho; None where the original knows nothing that could be left.
        low, high: Ends of the interval; None where it has no end on that side.
        n: Images.
        effective: So many images of as many people would say as much.
        references: Networks that never saw an image, for the image that has fewest.
        excess_before, excess: T of the original and of the file, in log-odds; of classes the accuracies.
        detected: Whether the original is told from a network without the images, at a false alarm of 5 %.
        present: The same for the file.
        power: How often a full trace of so many typical training images would be detected.
    """

    scope: Scope
    value: float | None
    low: float | None
    high: float | None
    n: int
    effective: float
    references: int
    excess_before: float
    excess: float
    detected: bool
    present: bool
    power: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """How much a test of this original can see, for any number of images.

    Attributes:
        trace, trace_spread: Mean and deviation of the excess of one retained image under the original.
        noise: Deviation of the excess of one unseen image.
        unseen: Effective number of unseen images.
        intraclass: Correlation of the excesses of one person's images.
        references: Networks that never saw an image.
    """

    trace: float
    trace_spread: float
    noise: float
    unseen: float
    intraclass: float
    references: int

    def power(self, n: float) -> float:
        """How often a full trace of n (effective) images is detected at a false alarm of 5 %.

        Where the estimate of the trace is below zero, by chance, there is none: a test finds it as often as
        it gives a false alarm, whatever n is.

        >>> known = Sensitivity(
        ...     trace=1.0, trace_spread=1.0, noise=1.0, unseen=1e9, intraclass=0.0, references=4
        ... )
        >>> round(known.power(4.0), 2)
        0.64
        """
        noise, spread = (_error(s, n, self.unseen) for s in (self.noise, self.trace_spread))
        return _normal((max(self.trace, 0.0) - Z_ONE_SIDED * noise) / max(spread, 1e-12))

    def proof(self, n: float, most: float) -> float:
        """How often a network that never saw n (effective) images is shown to know at most `most` of a trace.

        >>> known = Sensitivity(
        ...     trace=1.0, trace_spread=1.0, noise=1.0, unseen=1e9, intraclass=0.0, references=4
        ... )
        >>> round(known.proof(64.0, 0.25), 2)
        0.62
        """
        error = _error(math.hypot(self.noise, most * max(self.trace_spread, self.noise)), n, self.unseen)
        return _normal(most * max(self.trace, 0.0) / max(error, 1e-12) - Z_ONE_SIDED)


def samples_residual(
    forget: Compared, retain: Compared, unseen: Compared, *, intraclass: float, references: int
) -> Residual:
    """The residual of images whose classes stay.

    Args:
        forget: The request's images.
        retain: Images that both files were trained on.
        unseen: Images that no network was trained on, at least `LEAST_UNSEEN`.
        intraclass: See `qmu_edge.verify.metrics.intraclass`.
        references: Fewest networks behind a mean in `references`.

    Raises:
        ConfigError: A set has no logits of the original, or no references; a score is not finite.
    """
    sets, regression = (forget, retain, unseen), _Regression(unseen, intraclass)
    before = regression.excesses([_required(s.score_before, "scores of the original") for s in sets], sets)
    after = _unflattened(regression.excesses([s.score for s in sets], sets), before)
    base = regression.base(forget)
    t_file, t_before = float(after[0].mean()), float(before[0].mean())
    covariances = [_covariance(after[2], before[2])]
    covariances += [
        _covariance(after[i], before[i]) for i, least in ((1, 2), (0, ENOUGH)) if after[i].size >= least
    ]
    noise = [math.sqrt(base.variance(v, v)) for v in np.diag(covariances[0]).tolist()]
    known = _sensitivity(before[1], before[2], 1 / max(base.unseen, 1e-12), intraclass, references)
    low, high = _interval(t_file, t_before, covariances, base)
    return Residual(
        scope=Scope.SAMPLES, value=t_file / t_before if t_before > 0 else None, low=low, high=high,
        n=len(forget.labels), effective=1 / base.forget, references=references,
        excess_before=t_before, excess=t_file,
        detected=t_before > Z_ONE_SIDED * noise[1], present=t_file > Z_ONE_SIDED * noise[0],
        power=known.power(1 / base.forget),
    )  # fmt: skip


def signals(forget: Compared, unseen: Compared, *, intraclass: float) -> Values:
    """How far the file's mean excess over what each request names is above that of a network without it.

    Args:
        forget: The images of all r requests.
        unseen: Images that no network was trained on, at least `LEAST_UNSEEN`.
        intraclass: See `qmu_edge.verify.metrics.intraclass`.

    Returns:
        Deviations of such a network's mean excess, float64 (r,), in the order of `forget.requests`.
    """
    regression = _Regression(unseen, intraclass)
    excess, new = regression.excesses([forget.score, unseen.score], (forget, unseen))
    noise = float(_covariance(new, new)[0, 0])
    requests = np.zeros(len(excess), np.int64) if forget.requests is None else forget.requests
    bases = ((own := requests == number, regression.base(forget.take(own))) for number in np.unique(requests))
    return np.array([excess[own].mean() / math.sqrt(base.variance(noise, noise)) for own, base in bases])


def classes_residual(forget: Compared) -> Residual:
    """The residual of whole classes: a network that never saw a class recognises none of it.

    >>> none, four = np.zeros(4, bool), np.ones(4, bool)
    >>> found = classes_residual(Compared(
    ...     labels=np.zeros(4, int), classes=2, right=none, score=np.zeros(4), right_before=four,
    ... ))
    >>> found.value, found.low, round(found.high, 2)
    (0.0, 0.0, 0.68)
    """
    n = len(forget.labels)
    hits = [int(right.sum()) for right in (forget.right, _required(forget.right_before, "the original"))]
    (low, high), (low_before, high_before) = (binomial_interval(k, n, Z_ONE_SIDED) for k in hits)
    chance = 1 / forget.classes
    return Residual(
        scope=Scope.CLASSES, value=hits[0] / hits[1] if hits[1] else None,
        low=low / high_before, high=high / low_before if low_before > 0 else None,
        n=n, effective=float(n), references=0, excess_before=hits[1] / n, excess=hits[0] / n,
        detected=low_before > chance, present=low > chance, power=float(low_before > chance),
    )  # fmt: skip


def sensitivity(retain: Compared, unseen: Compared, *, intraclass: float, references: int) -> Sensitivity:
    """What a test of the audited file can see, before anything is forgotten.

    Args:
        retain: Images that it was trained on.
        unseen: Images that it was not.
        intraclass: See `qmu_edge.verify.metrics.intraclass`.
        references: Fewest networks behind a mean in `references`.
    """
    sets = (retain, unseen)
    known, new = _Regression(unseen, intraclass).excesses([of.score for of in sets], sets)
    return _sensitivity(known, new, effective_number(_groups(unseen), intraclass), intraclass, references)


def ratio_interval(
    a: float, b: float, covariance: NDArray[Any], z: float
) -> tuple[float | None, float | None]:
    """All ratios a / b that two normal estimates do not contradict; None where there is no end.

    Args:
        a: One estimate.
        b: The other.
        covariance: Of the two (2, 2).
        z: So many deviations.

    >>> low, high = ratio_interval(1.0, 2.0, np.diag([0.01, 0.0]), 2.0)
    >>> round(low, 6), round(high, 6)
    (0.4, 0.6)
    >>> ratio_interval(1.0, 0.1, np.diag([0.01, 0.01]), 2.0)
    (None, None)
    """
    leading = b * b - z * z * covariance[1, 1]
    if leading <= 0 or b <= 0:
        return None, None
    middle = a * b - z * z * covariance[0, 1]
    last = a * a - z * z * covariance[0, 0]
    root = math.sqrt(max(0.0, middle * middle - leading * last))
    return float((middle - root) / leading), float((middle + root) / leading)


def calibration(references: Values, labels: NDArray[Any], classes: int) -> Values:
    """What the regression knows of each image: one, the references' mean, and its class, (n, 2 + classes).

    >>> calibration(np.array([0.5]), np.array([1]), 2).tolist()
    [[1.0, 0.5, 0.0, 1.0]]
    """
    return np.concatenate([np.ones((len(labels), 1)), references[:, None], np.eye(classes)[labels]], axis=1)


class _Base(NamedTuple):
    """What a mean's variance is made of: 1 / effective images, and what the regression adds."""

    forget: float
    unseen: float

    def variance(self, forget: float, unseen: float) -> float:
        return forget * self.forget + unseen * self.unseen


class _Regression:
    """What scores of unseen images follow from: the references' mean, and the class."""

    def __init__(self, unseen: Compared, intraclass: float) -> None:
        self._design = _design(unseen)
        self._inverse = np.linalg.inv(_normal_matrix(self._design))
        self._intraclass = intraclass
        self._alike = len(unseen.labels) / effective_number(_groups(unseen), intraclass)

    def excesses(self, scores: Sequence[Values], sets: Sequence[Compared]) -> list[Values]:
        """Scores less what those of the last set, the unseen images, let expect of them."""
        scores = [_required(score, "scores") for score in scores]
        level = scores[-1].mean()
        weights = self._inverse @ self._design.T @ (scores[-1] - level)
        return [score - level - _design(of) @ weights for score, of in zip(scores, sets, strict=True)]

    def base(self, forget: Compared) -> _Base:
        """What the variance of the mean excess over these images is made of."""
        at = _design(forget).mean(axis=0)
        n = effective_number(_groups(forget), self._intraclass)
        return _Base(1 / n, float(at @ self._inverse @ at) * self._alike)


def _sensitivity(
    known: Values, new: Values, unseen: float, intraclass: float, references: int
) -> Sensitivity:
    """From the excesses of retained images, and of `unseen` (effectively so many) others."""
    trace, spread = (float(known.mean()), float(known.std())) if known.size else (0.0, 0.0)
    return Sensitivity(
        trace=trace, trace_spread=spread, noise=math.sqrt(float(new.var()) + _LEAST_VARIANCE),
        unseen=unseen, intraclass=intraclass, references=references,
    )  # fmt: skip


def _interval(
    t_file: float, t_before: float, covariances: list[NDArray[Any]], base: _Base
) -> tuple[float | None, float | None]:
    """The hull of the intervals under each spread: of unseen images, and of retained ones."""
    unseen = covariances[0] * base.unseen
    found = [ratio_interval(t_file, t_before, c * base.forget + unseen, Z_ONE_SIDED) for c in covariances]
    lows, highs = zip(*found, strict=True)
    return (
        None if None in lows else min(lows),
        None if None in highs else max(highs),
    )


def _unflattened(after: list[Values], before: list[Values]) -> list[Values]:
    """The excesses under the file, on the scale of the original: smaller outputs are no forgetting."""
    spreads = [float(excesses[2].std()) for excesses in (before, after)]
    factor = min(MOST_FLATTENED, max(1.0, spreads[0] / max(spreads[1], 1e-12)))
    return [excess * factor for excess in after]


def _normal_matrix(x: Values) -> Values:
    """Of the regression, with a prior on the classes, and a hair on the rest so that it can be solved."""
    prior = np.full(x.shape[1], _CLASS_PRIOR)
    prior[:2] = 1e-9 * len(x)
    return x.T @ x + np.diag(prior)


def _design(of: Compared) -> Values:
    return calibration(_required(of.references, "references"), of.labels, of.classes)


def _covariance(a: Values, b: Values) -> NDArray[Any]:
    return np.atleast_2d(np.cov(a, b)) + _LEAST_VARIANCE * np.eye(2)


def _required(value: NDArray[Any] | None, what: str) -> NDArray[Any]:
    if value is None:
        raise ConfigError(f"a residual needs {what} of every set")
    if not np.isfinite(value).all():
        raise ConfigError(f"{what}: a value is not finite; allowed are numbers")
    return value


def _groups(of: Compared) -> NDArray[Any]:
    return np.arange(len(of.labels)) if of.people is None else of.people


def _error(spread: float, n: float, unseen: float) -> float:
    return spread * math.sqrt(1 / n + 1 / unseen)


def _normal(z: float) -> float:
    return NormalDist().cdf(z)
