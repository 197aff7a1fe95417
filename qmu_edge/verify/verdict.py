"""The verdict on an exported file: its evaluation is compared with a reference, within thresholds.

FA must match what a model that never saw the data would reach. Far above the reference the data are still
known. Far below it the file is over-unlearned, which shows the request as plainly. So both fail. Thresholds
are compared with the plain values: an interval stands beside a value and does not widen the threshold.

A network that was trained without the data cannot know them. Its file must keep the accuracy, and what is
measured of membership is for information: a threshold on it would refuse the exact answer by chance.

A file that has the integer weights of the original is refused, whatever was measured: nothing changed.

All accuracies, gaps and drops are fractions.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qmu_edge.errors import ConfigError
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import Accuracy, Evaluation
from qmu_edge.verify.mia import Auc

UNCHANGED: Final = "unchanged_codes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Largest gaps and drops allowed, as fractions; None switches a check off."""

    max_fa_gap: float | None = 0.05
    max_ta_drop: float | None = 0.02
    max_ra_drop: float | None = 0.05
    max_mia_auc_gap: float | None = 0.05


class ReferenceKind(StrEnum):
    """What a file is compared with.

    A retrained model, data never trained on, or nothing left of a class; EXACT for the file of a network
    that was itself trained without the data.
    """

    RETRAINED = "retrained"
    HELD_OUT = "held-out"
    CLASS = "class"
    EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What to expect from a model that never saw the forgotten data; a field that is None is not compared."""

    kind: ReferenceKind
    fa: float | None = None
    ta: float | None = None
    ra: float | None = None
    mia_auc: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold: the value found (None when it could not be measured) and the largest allowed.

    `low` and `high` bound the 95 % interval of the measured quantity where there is one, for readers.
    """

    name: str
    value: float | None
    allowed: float
    passed: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one file; `passed` when there is at least one and every one passes."""

    passed: bool
    checks: tuple[Check, ...]


def from_retrained(evaluation: Evaluation) -> Reference:
    """Expect what a model retrained without the data does, run through the same export."""
    return Reference(
        kind=ReferenceKind.RETRAINED,
        fa=_value(evaluation.fa),
        ta=_value(evaluation.ta),
        ra=_value(evaluation.ra),
        mia_auc=_value(evaluation.mia_auc),
    )


def held_out(evaluation: Evaluation, original: Evaluation | None = None) -> Reference:
    """Expect the forgotten data to look like data never trained on.

    Args:
        evaluation: The unlearned file. Its accuracy on test data (on validation data when there are
            none) is the FA to expect; the AUC to expect is 0.5.
        original: The file before unlearning; its TA and RA are to be kept.

    Raises:
        ConfigError: Neither test nor validation data were evaluated.
    """
    seen = evaluation.ta or evaluation.va
    if seen is None:
        raise ConfigError("held-out reference: no test or validation set; allowed at least one")
    return Reference(
        kind=ReferenceKind.HELD_OUT,
        fa=seen.value,
        ta=_value(original.ta) if original else None,
        ra=_value(original.ra) if original else None,
        mia_auc=0.5,
    )


def forgotten_class(original: Evaluation | None = None) -> Reference:
    """Expect that no sample of a deleted class is recognised: FA 0. Membership is not compared.

    Args:
        original: The file before unlearning, evaluated on test and retain sets without the class.
    """
    return Reference(
        kind=ReferenceKind.CLASS,
        fa=0.0,
        ta=_value(original.ta) if original else None,
        ra=_value(original.ra) if original else None,
    )


def trained_without(original: Evaluation | None = None) -> Reference:
    """Expect of a network that never saw the data that it is as accurate; membership is not compared.

    Args:
        original: The file before; its TA and RA are to be kept.
    """
    return Reference(
        kind=ReferenceKind.EXACT,
        ta=_value(original.ta) if original else None,
        ra=_value(original.ra) if original else None,
    )


def judge(
    evaluation: Evaluation,
    reference: Reference,
    thresholds: Thresholds,
    before: Evaluation | None = None,
    *,
    codes: CodesChanged | None = None,
) -> Verdict:
    """Compare a file with its reference.

    A check is made when its threshold is set and the reference says what to expect. A check of a quantity
    that was not measured fails, and so does a file of an approximate method for which the policy sets no
    threshold: nothing passes in silence.

    Args:
        evaluation: The unlearned file.
        reference: What to expect.
        thresholds: What is allowed.
        before: The original file: TA and RA drops are measured against it, not against the reference.
        codes: How its integer weights differ from the original's; None where the original is not at hand.
    """
    ta = reference.ta if before is None or before.ta is None else before.ta.value
    ra = reference.ra if before is None or before.ra is None else before.ra.value
    rows = (
        ("fa_gap", evaluation.fa, reference.fa, thresholds.max_fa_gap, True),
        ("ta_drop", evaluation.ta, ta, thresholds.max_ta_drop, False),
        ("ra_drop", evaluation.ra, ra, thresholds.max_ra_drop, False),
        ("mia_auc_gap", evaluation.mia_auc, reference.mia_auc, thresholds.max_mia_auc_gap, True),
    )
    checks = tuple(
        _check(name, found, expected, allowed, absolute=absolute)
        for name, found, expected, allowed, absolute in rows
        if expected is not None and allowed is not None
    )
    enough = bool(checks) or (reference.kind is ReferenceKind.EXACT and codes is not None)
    checks += () if codes is None else (_changed(codes),)
    return Verdict(enough and all(check.passed for check in checks), checks)


def _changed(codes: CodesChanged) -> Check:
    return Check(UNCHANGED, codes.unchanged, codes.most_unchanged, codes.changed > 0)


def _check(
    name: str,
    found: Accuracy | Auc | None,
    expected: float,
    allowed: float,
    *,
    absolute: bool,
) -> Check:
    """A gap counts in both directions (`absolute`), a drop only downwards."""
    if found is None:
        return Check(name, None, allowed, False)
    value = abs(found.value - expected) if absolute else expected - found.value
    # a hair of slack: 0.95 - 0.9 is not 0.05 in binary
    return Check(name, value, allowed, value <= allowed + 1e-12, found.low, found.high)


def _value(found: Accuracy | Auc | None) -> float | None:
    return None if found is None else found.value
