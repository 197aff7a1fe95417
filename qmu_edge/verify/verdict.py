"""The verdict on an exported file: what it still knows of the forgotten images, and whether it is as good.

The answer says what is known about the rest of the data's influence, see `qmu_edge.verify.residual`:

    forgotten       the original knew the images, and at most the allowed share of that is left
    still_present   the file knows them, and more than the allowed share may be left
    over_forgotten  it answers worse on them than a network that never saw them: that shows them as plainly
    inconclusive    too few images, or too little to tell: more than the allowed share may be left, or nothing
    not_measurable  the original itself could not be told from a network that never saw them
    retrained       the network was trained without them: nothing can be left, whatever is measured

A file is released when it is forgotten or retrained, keeps its accuracy, and is not the original. Accuracy is
compared on the same images before and after, and refused only when the loss is significantly above the limit.

All accuracies, shares and drops are fractions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError
from qmu_edge.receipt.share import tellable, told
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.metrics import Z_ONE_SIDED
from qmu_edge.verify.residual import (
    LEAST_REFERENCES,
    LEAST_UNSEEN,
    Compared,
    Residual,
    classes_residual,
    samples_residual,
    signals,
)

UNCHANGED: Final = "unchanged_codes"
RESIDUAL: Final = "residual"
FAR_BELOW: Final = 0.1  # over-forgotten is so much less accurate than on unseen images, significantly
_NEVER_TRAINED: Final = (SetName.TEST, SetName.VALIDATION)
NO_REFERENCES: Final = "no networks that never saw the images: qmu-edge references build trains them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The largest share left, and the largest drops allowed, as fractions; None switches a check off."""

    max_residual: float = 0.25
    max_ta_drop: float | None = 0.02
    max_ra_drop: float | None = 0.05


class Answer(StrEnum):
    """What is known about the rest of the data's influence, see the module; the worse ones come first."""

    STILL_PRESENT = "still_present"
    OVER_FORGOTTEN = "over_forgotten"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURABLE = "not_measurable"
    FORGOTTEN = "forgotten"
    RETRAINED = "retrained"


class Bound(StrEnum):
    """What of a measured quantity is held against its limit: the value, or an end of its interval."""

    VALUE = "value"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold.

    Attributes:
        name: Of the quantity.
        value: What was found; None when it could not be measured.
        allowed: The largest allowed.
        passed: Whether `bound` of the quantity is at most that.
        low, high: Its interval: 5 % lie beyond either end.
        bound: See `Bound`.
        n: Images.
    """

    name: str
    value: float | None
    allowed: float
    passed: bool
    low: float | None = None
    high: float | None = None
    bound: Bound = Bound.VALUE
    n: int | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a value, with an interval where that is compared."""
        return tellable(self.value, self.low, self.high, self.bound) is not None

    @property
    def undecided(self) -> bool:
        """Whether it passed because there are not enough images to tell."""
        return self.passed and self.value is not None and self.value > self.allowed + 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one file.

    Attributes:
        passed: Whether it may be released.
        checks: All that was held against a limit.
        answer: None where nothing was forgotten, and in reports that are older than the answers.
        why: What keeps the answer from being another one, for people; "" where the figures say it.
        residuals: What is left of the samples, and of the classes.
    """

    passed: bool
    checks: tuple[Check, ...]
    answer: Answer | None = None
    why: str = ""
    residuals: tuple[Residual, ...] = ()

    @property
    def unmeasured(self) -> bool:
        """Whether all that is missing is that something can be said of what is left."""
        missed = (c for c in self.checks if not c.passed and c.measured)
        return not self.passed and self.answer is Answer.NOT_MEASURABLE and not any(missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which terms a file is judged.

    Attributes:
        thresholds: What is allowed.
        exact: The network was trained without the data.
        classes: Labels of the classes that are forgotten whole.
        references: Fewest networks that never saw an image, behind the means in the sets.
        intraclass: Correlation of one person's images, see `qmu_edge.verify.metrics.intraclass`.
        release_unmeasurable: Release a file where of the original nothing could be said either.
    """

    thresholds: Thresholds = Thresholds()
    exact: bool = False
    classes: tuple[int, ...] = ()
    references: int = 0
    intraclass: float = 0.0
    release_unmeasurable: bool = False


def judge(sets: Mapping[SetName, Compared], terms: Terms, *, codes: CodesChanged | None = None) -> Verdict:
    """Judge a file by what it does on sets of images.

    Args:
        sets: What was measured, with the logits of the original where it is at hand: without them there is
            neither an answer nor a check of accuracy.
        terms: See `Terms`.
        codes: How its integer weights differ from the original's; None where the original is not at hand.
    """
    limits = terms.thresholds
    drops = ((SetName.TEST, "ta_drop", limits.max_ta_drop), (SetName.RETAIN, "ra_drop", limits.max_ra_drop))
    checks = [_drop(name, sets.get(of), most) for of, name, most in drops if most is not None]
    found = [check for check in checks if check is not None]
    answer, why, residuals = _of_exact(sets, terms) if terms.exact else _answer(sets, terms)
    if not terms.exact:
        found += [_left(residual, limits.max_residual) for residual in residuals]
    found += [] if codes is None else [_changed(codes)]
    fine = answer in (None, Answer.FORGOTTEN, Answer.RETRAINED)
    excused = answer is Answer.NOT_MEASURABLE and terms.release_unmeasurable
    others = [c for c in found if c.name != RESIDUAL]
    passed = (fine and all(c.passed for c in found)) or (excused and all(c.passed for c in others))
    return Verdict(passed=passed, checks=tuple(found), answer=answer, why=why, residuals=residuals)


def reasons(verdict: Verdict) -> list[str]:
    """What keeps a file from being released, in short sentences; nothing where it may be.

    >>> check = Check("ta_drop", 0.1, 0.02, False, 0.06, 0.14, Bound.LOW, 100)
    >>> reasons(Verdict(passed=False, checks=(check,), answer=Answer.RETRAINED))
    ['ta_drop is 0.1000 (0.0600 to 0.1400), allowed 0.02']
    """
    if verdict.passed:
        return []
    found = []
    if verdict.answer not in (None, Answer.FORGOTTEN, Answer.RETRAINED):
        figures = "; ".join([*([verdict.why] if verdict.why else []), *map(_share, verdict.residuals)])
        found.append(f"{verdict.answer}: {figures}" if figures else str(verdict.answer))
    return found + [_missed(c) for c in verdict.checks if not c.passed and c.name != RESIDUAL]


def _share(residual: Residual) -> str:
    left = told(residual.value, residual.low, residual.high, "{:.0%}".format)
    why = "" if residual.detected else ", the original could not be told from a network that never saw them"
    return f"left of what was known of {residual.n} images: {left}{why}"


def _missed(check: Check) -> str:
    if check.name == UNCHANGED:
        return "nothing changed: every integer weight is the original's"
    return f"{check.name} is {told_check(check)}, allowed {check.allowed}"


def told_check(check: Check) -> str:
    """What was found, with its interval where that is compared."""
    return told(check.value, check.low, check.high, "{:.4f}".format, check.bound)


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float, float]:
    """How much accuracy is lost on the same images, with 5 % on either side of the interval.

    Args:
        before: Which images (n,) are recognised before.
        after: And after.

    >>> before, after = np.array([True] * 8 + [False] * 8), np.array([True] * 4 + [False] * 12)
    >>> [round(value, 3) for value in paired_drop(before, after)]
    [0.25, 0.072, 0.428]
    """
    lost = before.astype(np.float64) - after
    value, half = float(lost.mean()), Z_ONE_SIDED * math.sqrt(float(lost.var()) / len(lost))
    return value, value - half, value + half


def answer_of(residual: Residual, most: float) -> Answer:
    """The answer that one residual gives.

    Args:
        residual: What is left.
        most: The largest share allowed.
    """
    if not residual.detected:  # a file that knows them is not released for want of an original that does
        return Answer.STILL_PRESENT if residual.present else Answer.NOT_MEASURABLE
    if residual.high is not None and residual.high <= most:
        over = residual.high < 0 and residual.value is not None and residual.value < -most
        return Answer.OVER_FORGOTTEN if over else Answer.FORGOTTEN
    return Answer.STILL_PRESENT if residual.present else Answer.INCONCLUSIVE


def _of_exact(
    sets: Mapping[SetName, Compared], terms: Terms
) -> tuple[Answer | None, str, tuple[Residual, ...]]:
    """Nothing can be left: what is measured is for information, and where it cannot be, that is no matter."""
    try:
        return Answer.RETRAINED, "", _answer(sets, terms)[2]
    except ConfigError:
        return Answer.RETRAINED, "", ()


def _answer(
    sets: Mapping[SetName, Compared], terms: Terms
) -> tuple[Answer | None, str, tuple[Residual, ...]]:
    """The worst answer of samples and classes, why it is no better, and what both have left."""
    forget = sets.get(SetName.FORGET)
    if forget is None or forget.score_before is None:
        return None, "", ()
    of_class = np.isin(forget.labels, terms.classes)
    residuals, why = [], ""
    if of_class.any():
        residuals.append(classes_residual(forget.take(of_class)))
    if not of_class.all():
        samples, unseen = forget.take(~of_class), unseen_of(sets)
        retain = known_to_references(sets.get(SetName.RETAIN))
        why = _unmeasurable(samples, retain, unseen, terms)
        if not why and unseen is not None and retain is not None:
            residuals.append(
                samples_residual(
                    samples, retain, unseen, intraclass=terms.intraclass, references=terms.references
                )
            )
            if _one_is_known(samples, unseen, terms.intraclass):
                return Answer.STILL_PRESENT, "what one of the requests names is still known", (*residuals,)
            if _far_below(samples, unseen, residuals[-1].effective):
                return Answer.OVER_FORGOTTEN, "its accuracy is far below that on unseen images", (*residuals,)
    answers = [answer_of(r, terms.thresholds.max_residual) for r in residuals]
    answers += [Answer.NOT_MEASURABLE] if why else []
    return min(answers, key=[*Answer].index), why, tuple(residuals)


def _one_is_known(forget: Compared, unseen: Compared, intraclass: float) -> bool:
    """Whether what one of several requests names is still known; with 5 % false alarm among all of them."""
    if forget.requests is None:
        return False
    found = signals(forget, unseen, intraclass=intraclass)
    return bool(len(found) > 1 and found.max() > NormalDist().inv_cdf(1 - 0.05 / len(found)))


def known_to_references(of: Compared | None) -> Compared | None:
    """The images of a set of which references have an opinion."""
    return of if of is None or of.references is None else of.take(_known_positions(of))


def _known_positions(of: Compared) -> NDArray[np.int64]:
    return np.arange(len(of.labels)) if of.references is None else np.flatnonzero(np.isfinite(of.references))


def unseen_of(sets: Mapping[SetName, Compared]) -> Compared | None:
    """Test images, or validation images where those are too few; if enough are left, of other people only."""
    found = unseen_among(sets)
    return None if found is None else sets[found[0]].take(found[1])


def unseen_among(sets: Mapping[SetName, Compared]) -> tuple[SetName, NDArray[np.int64]] | None:
    """The same as the name of a set, and positions in it (m,)."""
    there = {name: _known_positions(sets[name]) for name in _NEVER_TRAINED if name in sets}
    if not there:
        return None
    enough = (name for name, at in there.items() if len(at) >= LEAST_UNSEEN)
    chosen = next(enough, next(iter(there)))
    at, people = there[chosen], sets[chosen].people
    if people is None:
        return chosen, at
    trained = [of.people for n in (SetName.FORGET, SetName.RETAIN) if (of := sets.get(n)) is not None]
    known = [people for people in trained if people is not None]
    others = at[~np.isin(people[at], np.concatenate([*known, np.empty(0, np.int64)]))]
    return chosen, others if len(others) >= LEAST_UNSEEN else at


def _unmeasurable(forget: Compared, retain: Compared | None, unseen: Compared | None, terms: Terms) -> str:
    """What is missing to measure anything, or ""."""
    if terms.references < LEAST_REFERENCES or forget.references is None:
        return NO_REFERENCES
    if retain is None or not len(retain.labels):
        return "there are no retained images to compare with"
    return too_few_unseen(0 if unseen is None else len(unseen.labels))


def too_few_unseen(images: int) -> str:
    """What is said of so many unseen images, or "" where they are enough.

    >>> too_few_unseen(29)
    '29 unseen images (test, or else validation), at least 30 are needed'
    """
    if images >= LEAST_UNSEEN:
        return ""
    return f"{images} unseen images (test, or else validation), at least {LEAST_UNSEEN} are needed"


def _far_below(forget: Compared, unseen: Compared, effective: float) -> bool:
    """Whether the forgotten are recognised far less often than unseen images of their classes."""
    by_class = [unseen.right[unseen.labels == k] for k in range(forget.classes)]
    shares = np.array([c.mean() if c.size else unseen.right.mean() for c in by_class])
    expected, found = float(shares[forget.labels].mean()), float(forget.right.mean())
    error = math.sqrt(max(expected * (1 - expected), 1e-12) * (1 / effective + 1 / len(unseen.right)))
    return expected - found - Z_ONE_SIDED * error > FAR_BELOW


def _drop(name: str, of: Compared | None, most: float) -> Check | None:
    """The loss of accuracy on one set; None where the original is not at hand."""
    if of is None or of.right_before is None:
        return None
    value, low, high = paired_drop(of.right_before, of.right)
    return Check(name, value, most, low <= most + 1e-12, low, high, Bound.LOW, len(of.labels))


def _left(residual: Residual, most: float) -> Check:
    passed = residual.high is not None and residual.high <= most
    return Check(RESIDUAL, residual.value, most, passed, residual.low, residual.high, Bound.HIGH, residual.n)


def _changed(codes: CodesChanged) -> Check:
    return Check(UNCHANGED, codes.unchanged, codes.most_unchanged, codes.changed > 0, n=codes.weights)
