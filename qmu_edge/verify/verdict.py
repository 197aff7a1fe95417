"""The verdict on an exported file: its figures, a reference, thresholds."""

from dataclasses import dataclass
from typing import Literal

from qmu_edge.errors import ConfigError
from qmu_edge.verify.evaluation import Accuracy, Evaluation
from qmu_edge.verify.mia import Auc


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Largest gaps and drops allowed, as fractions; None switches a check off."""

    max_fa_gap: float | None = 0.05
    max_ta_drop: float | None = 0.02
    max_ra_drop: float | None = 0.05
    max_mia_auc_gap: float | None = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What to expect from a model that never saw the forgotten data; None is not compared."""

    kind: Literal["retrained", "held-out", "class"]
    fa: float | None = None
    ta: float | None = None
    ra: float | None = None
    mia_auc: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold: the value found (None when it could not be measured) and the largest allowed.

    `low` and `high` bound the measured quantity's 95 % interval where there is one, for reading.
    """

    name: str
    value: float | None
    allowed: float
    passed: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one file; `passed` when every one is, and there is at least one."""

    passed: bool
    checks: tuple[Check, ...]


def from_retrained(evaluation: Evaluation) -> Reference:
    """Expect what a model retrained without the data does, run through the same export."""
    return Reference(
        kind="retrained",
        fa=_value(evaluation.fa),
        ta=_value(evaluation.ta),
        ra=_value(evaluation.ra),
        mia_auc=None if evaluation.mia_auc is None else evaluation.mia_auc.value,
    )


def held_out(evaluation: Evaluation, original: Evaluation | None = None) -> Reference:
    """Expect the forgotten data to look like data never trained on.

    Args:
        evaluation: The unlearned file; its accuracy on test data (validation data when there are
            none) is the FA to expect, and an AUC of 0.5.
        original: The file before unlearning; its TA and RA are to be kept.

    Raises:
        ConfigError: Neither validation nor test data were evaluated.
    """
    seen = evaluation.ta or evaluation.va
    if seen is None:
        raise ConfigError("held-out reference: no test or validation set; allowed at least one")
    return Reference(
        kind="held-out",
        fa=seen.value,
        ta=_value(original.ta) if original else None,
        ra=_value(original.ra) if original else None,
        mia_auc=0.5,
    )


def forgotten_class(original: Evaluation | None = None) -> Reference:
    """Expect a whole class to be gone: FA 0; membership is not compared.

    Args:
        original: The file before unlearning, evaluated on test and retain sets without the class.
    """
    return Reference(
        kind="class",
        fa=0.0,
        ta=_value(original.ta) if original else None,
        ra=_value(original.ra) if original else None,
    )


def judge(
    evaluation: Evaluation,
    reference: Reference,
    thresholds: Thresholds,
    before: Evaluation | None = None,
) -> Verdict:
    """Compare a file with its reference.

    A check is made when its threshold is set and the reference says what to expect. What should be
    checked and was not measured fails: nothing passes in silence.

    Args:
        evaluation: The unlearned file.
        reference: What to expect.
        thresholds: What is allowed.
        before: The original file: TA and RA drops are measured against it, not the reference.

    Returns:
        The verdict.
    """
    ta = reference.ta if before is None or before.ta is None else before.ta.value
    ra = reference.ra if before is None or before.ra is None else before.ra.value
    rows = (
        ("fa_gap", evaluation.fa, reference.fa, thresholds.max_fa_gap, abs),
        ("ta_drop", evaluation.ta, ta, thresholds.max_ta_drop, float),
        ("ra_drop", evaluation.ra, ra, thresholds.max_ra_drop, float),
        ("mia_auc_gap", evaluation.mia_auc, reference.mia_auc, thresholds.max_mia_auc_gap, abs),
    )
    checks = tuple(
        _check(name, found, expected, allowed, absolute=size is abs)
        for name, found, expected, allowed, size in rows
        if expected is not None and allowed is not None
    )
    return Verdict(bool(checks) and all(check.passed for check in checks), checks)


def _check(
    name: str,
    found: Accuracy | Auc | None,
    expected: float,
    allowed: float,
    *,
    absolute: bool,
) -> Check:
    if found is None:
        return Check(name, None, allowed, False)
    value = abs(found.value - expected) if absolute else expected - found.value
    # a hair of slack: 0.95 - 0.9 is not 0.05 in binary
    return Check(name, value, allowed, value <= allowed + 1e-12, found.low, found.high)


def _value(accuracy_or_none: Accuracy | None) -> float | None:
    return None if accuracy_or_none is None else accuracy_or_none.value
