"""Verdicts: what passes, what fails, and against which reference."""

import json
from dataclasses import replace

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.verdict import (
    UNCHANGED,
    Reference,
    ReferenceKind,
    Thresholds,
    Verdict,
    forgotten_class,
    from_retrained,
    held_out,
    judge,
    trained_without,
)
from tests.verify.results import evaluation


def test_over_unlearning_fails_as_under_unlearning_does() -> None:
    reference = held_out(evaluation(0.9, 0.9))
    for fa, passed in ((0.9, True), (0.95, True), (0.85, True), (0.96, False), (0.84, False)):
        assert judge(evaluation(fa, 0.9), reference, Thresholds()).passed is passed


def test_drops_are_measured_against_the_original() -> None:
    original = evaluation(1.0, 0.93, ra=1.0)
    new = evaluation(0.9, 0.9, ra=0.96)
    verdict = judge(new, held_out(new, original), Thresholds(), original)
    assert [(c.name, c.passed) for c in verdict.checks] == [
        ("fa_gap", True),
        ("ta_drop", False),
        ("ra_drop", True),
        ("mia_auc_gap", True),
    ]
    # better than the original is no drop
    assert judge(evaluation(0.9, 0.99), held_out(new, original), Thresholds(), original).passed


def test_references() -> None:
    retrained = evaluation(0.8, 0.9, auc=0.55)
    assert from_retrained(retrained) == Reference(
        kind=ReferenceKind.RETRAINED, fa=0.8, ta=0.9, ra=0.95, mia_auc=0.55
    )
    assert judge(retrained, from_retrained(retrained), Thresholds()).passed
    forgotten = judge(evaluation(0.0, 0.9, auc=0.0), forgotten_class(), Thresholds())
    assert forgotten.passed and [c.name for c in forgotten.checks] == ["fa_gap"]
    with pytest.raises(ConfigError, match="no test or validation"):
        held_out(replace(retrained, ta=None))


def test_a_file_in_which_no_integer_weight_changed_is_refused() -> None:
    same, other = CodesChanged(weights=1000, changed=0), CodesChanged(weights=1000, changed=1)
    original = evaluation(0.9, 0.9)
    for codes, passed in ((same, False), (other, True)):
        for reference in (held_out(original, original), trained_without(original)):
            assert judge(original, reference, Thresholds(), original, codes=codes).passed is passed
    (*_, check) = judge(original, held_out(original), Thresholds(), codes=same).checks
    assert (check.name, check.value, check.passed) == (UNCHANGED, 1.0, False)
    off = Thresholds(max_fa_gap=None, max_ta_drop=None, max_ra_drop=None, max_mia_auc_gap=None)
    assert not judge(original, held_out(original), off, codes=other).passed  # what changed is no evidence
    assert judge(original, trained_without(original), off, codes=other).passed
    assert not judge(original, trained_without(original), off).passed  # nothing was checked at all


def test_membership_does_not_decide_about_a_network_that_never_saw_the_data() -> None:
    original, new = evaluation(1.0, 0.9), evaluation(0.2, 0.9, auc=0.1)
    verdict = judge(new, trained_without(original), Thresholds(), original)
    assert verdict.passed and [c.name for c in verdict.checks] == ["ta_drop", "ra_drop"]
    worse = evaluation(0.2, 0.8, auc=0.5)
    assert not judge(worse, trained_without(original), Thresholds(), original).passed


def test_validation_data_stand_in_for_test_data() -> None:
    without = replace(evaluation(0.9, 0.9), ta=None, va=evaluation(0.9, 0.7).ta)
    assert held_out(without).fa == 0.7


def test_what_was_not_measured_does_not_pass() -> None:
    blind = replace(evaluation(0.9, 0.9), fa=None)
    verdict = judge(blind, held_out(blind), Thresholds())
    assert not verdict.passed and verdict.checks[0].value is None
    off = Thresholds(max_fa_gap=None, max_mia_auc_gap=None)
    assert not judge(blind, held_out(blind), off).passed  # nothing was checked at all


def test_a_value_on_the_threshold_passes_in_spite_of_binary_fractions() -> None:
    (check, *_) = judge(evaluation(0.85, 0.9), held_out(evaluation(0.9, 0.9)), Thresholds()).checks
    assert check.value is not None and check.value > 0.05 and check.passed


def test_everything_is_read_back_as_it_was_written() -> None:
    new = evaluation(0.9, 0.9)
    reference = held_out(new, new)
    verdict = judge(new, reference, Thresholds(max_ta_drop=None))
    for value in (Thresholds(max_fa_gap=None), reference, verdict):
        assert from_json(type(value), json.loads(json.dumps(to_json(value))), "stored") == value
    assert isinstance(from_json(Verdict, to_json(verdict), "stored").checks, tuple)
