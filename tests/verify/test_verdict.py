"""Verdicts: which answer follows from what was measured, and what may be released."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import LEAST_UNSEEN, Compared, Scope
from qmu_edge.verify.verdict import (
    RESIDUAL,
    UNCHANGED,
    Answer,
    Bound,
    Check,
    Terms,
    Thresholds,
    Verdict,
    judge,
    paired_drop,
    reasons,
)
from tests.verify.worlds import world

Sets = dict[SetName, Compared]
TERMS = Terms(references=4)
OTHER, SAME = CodesChanged(weights=1000, changed=1), CodesChanged(weights=1000, changed=0)


def sets_of(n: int, share: float, unseen: int = 300) -> Sets:
    forget, retain, test = world(np.random.default_rng(0), n, share, unseen=unseen)
    return {SetName.FORGET: forget, SetName.RETAIN: retain, SetName.TEST: test}


def right(flags: NDArray[np.bool_], before: NDArray[np.bool_]) -> Compared:
    """Images of which nothing is known but whether they are recognised."""
    n = len(flags)
    return Compared(
        labels=np.zeros(n, int), classes=5, right=flags, score=np.zeros(n), right_before=before,
        score_before=np.zeros(n),
    )  # fmt: skip


def lost(n: int, before: int, after: int) -> Compared:
    """Of n images, the first ones are recognised."""
    return right(np.arange(n) < after, np.arange(n) < before)


def unknown(sets: Sets) -> Sets:
    """The same, but the original thinks of the images what the references think."""
    forget = sets[SetName.FORGET]
    return {**sets, SetName.FORGET: replace(forget, score_before=forget.references)}


ANSWERS: dict[str, tuple[Sets, Answer]] = {
    "much of it is left": (sets_of(60, 1.0), Answer.STILL_PRESENT),
    "half of it is left": (sets_of(60, 0.5), Answer.STILL_PRESENT),
    "nothing of many images": (sets_of(300, 0.0), Answer.FORGOTTEN),
    "nothing of a few": (sets_of(8, 0.0), Answer.INCONCLUSIVE),
    "worse than unseen": (sets_of(60, -1.5), Answer.OVER_FORGOTTEN),
    "never known": (unknown(sets_of(60, 0.0)), Answer.NOT_MEASURABLE),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_answer_and_whether_it_is_released(name: str) -> None:
    sets, answer = ANSWERS[name]
    found = judge(sets, TERMS, codes=OTHER)
    (left,) = found.residuals
    assert (
        found.answer is answer and left.scope is Scope.SAMPLES and left.n == len(sets[SetName.FORGET].labels)
    )
    assert found.passed == (answer is Answer.FORGOTTEN) == (not reasons(found))
    check = next(c for c in found.checks if c.name == RESIDUAL)
    assert (check.low, check.value, check.high, check.n) == (left.low, left.value, left.high, left.n)
    assert (check.allowed, check.bound) == (0.25, Bound.HIGH)
    assert check.passed == (left.high is not None and left.high <= 0.25)
    if not found.passed:
        assert str(answer) in reasons(found)[0] and f"known of {left.n} images" in reasons(found)[0]


def test_what_may_be_left_is_the_policys() -> None:
    sets, share = sets_of(300, 0.3), Terms(references=4, thresholds=Thresholds(max_residual=0.5))
    assert judge(sets, share).answer is Answer.FORGOTTEN and judge(sets, share).passed
    assert judge(sets, TERMS).answer is Answer.STILL_PRESENT and not judge(sets, TERMS).passed


def test_a_network_trained_without_the_images_is_released_whatever_is_measured() -> None:
    for sets in ({}, sets_of(60, 1.0), sets_of(1, 0.0)):
        found = judge(sets, replace(TERMS, exact=True), codes=OTHER)
        assert (found.answer, found.passed, found.why) == (Answer.RETRAINED, True, "")
        assert RESIDUAL not in [c.name for c in found.checks]
    worse = {SetName.TEST: lost(1000, 900, 800)}
    assert not judge(worse, replace(TERMS, exact=True), codes=OTHER).passed


def test_where_the_original_knew_nothing_the_policy_decides() -> None:
    sets, _ = ANSWERS["never known"]
    free = replace(TERMS, release_unmeasurable=True)
    assert judge(sets, free, codes=OTHER).passed and not judge(sets, TERMS, codes=OTHER).passed
    assert not judge(sets, free, codes=SAME).passed
    worse = {**sets, SetName.TEST: replace(sets[SetName.TEST], right=np.arange(300) < 200)}
    assert not judge(worse, free, codes=OTHER).passed
    for name in ("much of it is left", "nothing of a few", "worse than unseen"):
        assert not judge(ANSWERS[name][0], free, codes=OTHER).passed


def test_unmeasured_is_a_file_that_misses_nothing_else() -> None:
    sets, _ = ANSWERS["never known"]
    found = judge(sets, TERMS, codes=OTHER)
    assert found.unmeasured and not found.passed
    assert judge(sets, replace(TERMS, references=0), codes=OTHER).unmeasured
    assert not judge(sets, TERMS, codes=SAME).unmeasured
    worse = {**sets, SetName.TEST: replace(sets[SetName.TEST], right=np.arange(300) < 200)}
    assert not judge(worse, TERMS, codes=OTHER).unmeasured
    assert not judge(sets, replace(TERMS, release_unmeasurable=True), codes=OTHER).unmeasured
    for name, (others, answer) in ANSWERS.items():
        assert judge(others, TERMS, codes=OTHER).unmeasured == (answer is Answer.NOT_MEASURABLE), name


def test_a_file_in_which_no_integer_weight_changed_is_refused() -> None:
    sets = sets_of(300, 0.0)
    for terms in (TERMS, replace(TERMS, exact=True)):
        assert judge(sets, terms, codes=OTHER).passed
        refused = judge(sets, terms, codes=SAME)
        check = refused.checks[-1]
        assert (check.name, check.value, check.passed, check.n) == (UNCHANGED, 1.0, False, 1000)
        assert not refused.passed and "nothing changed" in reasons(refused)[-1]


def test_a_loss_that_may_be_chance_is_not_refused_and_said_to_be_undecided() -> None:
    """Two of 78 images, of which an unpaired test knows nothing."""
    for n, before, after, passed, undecided in (
        (78, 70, 68, True, True), (78, 70, 70, True, False), (78, 70, 75, True, False),
        (78, 70, 60, False, False), (10_000, 9000, 8700, False, False), (10_000, 9000, 8790, True, True),
    ):  # fmt: skip
        found = judge({SetName.TEST: lost(n, before, after)}, Terms())
        (check,) = found.checks
        assert (check.name, check.bound, check.n) == ("ta_drop", Bound.LOW, n)
        assert check.value == pytest.approx((before - after) / n)
        assert (found.passed, check.passed, check.undecided) == (passed, passed, undecided), (n, after)
    (reason,) = reasons(judge({SetName.TEST: lost(78, 70, 60)}, Terms()))
    assert reason.startswith("ta_drop is 0.1282 (") and reason.endswith("allowed 0.02")


def test_losses_are_paired() -> None:
    """As many gained as lost is no loss, but it is less certain."""
    before = np.arange(100) < 50
    assert paired_drop(before, before) == (0.0, 0.0, 0.0)
    value, low, high = paired_drop(before, ~before)
    assert value == 0.0 and low == -high and high == pytest.approx(1.6449 / 10, abs=1e-4)


def test_each_set_has_its_limit() -> None:
    both = {SetName.TEST: lost(1000, 900, 860), SetName.RETAIN: lost(1000, 990, 950)}
    found = judge(both, Terms())
    assert [(c.name, c.allowed, c.passed) for c in found.checks] == [
        ("ta_drop", 0.02, False), ("ra_drop", 0.05, True),
    ]  # fmt: skip
    off = Terms(thresholds=Thresholds(max_ta_drop=None, max_ra_drop=0.01))
    assert [(c.name, c.passed) for c in judge(both, off).checks] == [("ra_drop", False)]
    assert judge({SetName.VALIDATION: lost(9, 9, 0)}, Terms()).checks == ()


def test_without_the_original_there_is_no_answer() -> None:
    sets = {name: replace(s, right_before=None, score_before=None) for name, s in sets_of(60, 1.0).items()}
    assert judge(sets, TERMS) == Verdict(passed=True, checks=())


UNMEASURABLE: dict[str, tuple[Sets, Terms, str]] = {
    "no references": (sets_of(60, 0.0), Terms(), "no networks that never saw the images"),
    "one reference": (sets_of(60, 0.0), Terms(references=1), "no networks that never saw the images"),
    "no retained images": (
        {n: s for n, s in sets_of(60, 0.0).items() if n is not SetName.RETAIN}, TERMS, "no retained images",
    ),
    "no unseen images": (
        {n: s for n, s in sets_of(60, 0.0).items() if n is not SetName.TEST}, TERMS, "^0 unseen images",
    ),
    "few unseen images": (
        sets_of(60, 0.0, unseen=LEAST_UNSEEN - 1), TERMS, "^29 unseen images .*at least 30",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNMEASURABLE)
def test_what_is_missing_is_said(name: str) -> None:
    sets, terms, why = UNMEASURABLE[name]
    found = judge(sets, terms, codes=OTHER)
    assert found.answer is Answer.NOT_MEASURABLE and found.residuals == () and not found.passed
    assert re.search(why, found.why)
    assert reasons(found) == [f"not_measurable: {found.why}"]
    assert judge(sets, replace(terms, release_unmeasurable=True), codes=OTHER).passed


def test_validation_images_stand_in_for_test_images() -> None:
    sets = sets_of(60, 1.0)
    named: Sets = {SetName.VALIDATION if n is SetName.TEST else n: s for n, s in sets.items()}
    assert judge(named, TERMS).residuals == judge(sets, TERMS).residuals != ()


def whole(n: int, after: int) -> Compared:
    """Images of class 4, all recognised before."""
    forget = world(np.random.default_rng(1), n, 0.0).forget
    return replace(forget, labels=np.full(n, 4), right_before=np.ones(n, bool), right=np.arange(n) < after)


def test_whole_classes_are_forgotten_when_none_of_them_is_recognised() -> None:
    terms = Terms(classes=(4,))  # no references are needed
    for after, answer in ((0, Answer.FORGOTTEN), (5, Answer.FORGOTTEN), (60, Answer.STILL_PRESENT)):
        found = judge({SetName.FORGET: whole(100, after)}, terms)
        assert found.answer is answer and [r.scope for r in found.residuals] == [Scope.CLASSES]
        assert found.passed == (answer is Answer.FORGOTTEN)


def mixed(samples: Sets, after: int) -> Sets:
    """The same request, with 100 images of a whole class."""
    some, more = samples[SetName.FORGET], whole(100, after)
    some = replace(some, labels=some.labels % 4)
    joined = {
        name: np.concatenate([getattr(some, name), getattr(more, name)])
        for name in ("labels", "right", "score", "right_before", "score_before", "references", "people")
    }
    return {**samples, SetName.FORGET: Compared(classes=5, **joined)}


def test_of_classes_and_samples_together_the_worse_answer_counts() -> None:
    gone, left, few = (ANSWERS[n][0] for n in ("nothing of many images", "much of it is left", "never known"))
    terms = replace(TERMS, classes=(4,))
    for sets, answer in (
        (mixed(gone, 0), Answer.FORGOTTEN), (mixed(gone, 100), Answer.STILL_PRESENT),
        (mixed(left, 0), Answer.STILL_PRESENT), (mixed(few, 0), Answer.NOT_MEASURABLE),
        (mixed(few, 100), Answer.STILL_PRESENT),
    ):  # fmt: skip
        found = judge(sets, terms)
        assert found.answer is answer
        assert [(r.scope, r.n) for r in found.residuals] == [
            (Scope.CLASSES, 100), (Scope.SAMPLES, len(sets[SetName.FORGET].labels) - 100),
        ]  # fmt: skip
    bare = judge(mixed(gone, 100), replace(terms, references=0))
    assert bare.answer is Answer.STILL_PRESENT and "no networks" in bare.why


def test_answers_far_below_those_of_unseen_images_are_over_forgotten() -> None:
    sets = sets_of(300, 0.0)
    assert sets[SetName.TEST].right.mean() > 0.9
    forget = sets[SetName.FORGET]
    found = judge({**sets, SetName.FORGET: replace(forget, right=np.arange(300) < 200)}, TERMS)
    assert found.answer is Answer.OVER_FORGOTTEN and not found.passed and "far below" in found.why
    small = judge({**sets, SetName.FORGET: replace(forget, right=np.arange(300) < 280)}, TERMS)
    assert small.answer is Answer.FORGOTTEN


def test_a_value_on_the_threshold_passes_in_spite_of_binary_fractions() -> None:
    every = np.ones(10, bool)
    found = judge(
        {SetName.TEST: right(np.zeros(10, bool), every)}, Terms(thresholds=Thresholds(max_ta_drop=1.0))
    )
    assert found.passed
    check = Check("ta_drop", 0.1 + 0.2, 0.3, True)
    assert check.value is not None and check.value > check.allowed and not check.undecided


def test_everything_is_read_back_as_it_was_written() -> None:
    for sets in (sets_of(60, 1.0), mixed(sets_of(8, 0.0), 0), {SetName.TEST: lost(78, 70, 68)}):
        terms: Any = Terms(
            thresholds=Thresholds(max_ta_drop=None), references=4, classes=(4,), intraclass=0.5
        )
        for value in (terms, judge(sets, terms, codes=SAME)):
            assert from_json(type(value), json.loads(json.dumps(to_json(value))), "stored") == value
    assert isinstance(from_json(Verdict, to_json(judge({}, Terms())), "stored").checks, tuple)


def test_smaller_outputs_are_no_forgetting() -> None:
    """Nothing is forgotten, and every logit is a fifth of what it was."""
    sets = sets_of(200, 1.0)
    flat = {name: replace(of, score=of.score / 5) for name, of in sets.items()}
    assert judge(flat, TERMS).answer is Answer.STILL_PRESENT


def test_one_request_of_a_batch_that_is_still_known_holds_up_the_others() -> None:
    done, left = sets_of(600, 0.0), sets_of(60, 1.0)
    parts = [done[SetName.FORGET], left[SetName.FORGET]]
    arrays = ("labels", "right", "score", "right_before", "score_before", "references")
    together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    forget = Compared(classes=5, **together)
    assert judge({**done, SetName.FORGET: forget}, TERMS).answer is Answer.FORGOTTEN  # on average
    named = replace(forget, requests=np.repeat([0, 1], [600, 60]))
    verdict = judge({**done, SetName.FORGET: named}, TERMS)
    assert verdict.answer is Answer.STILL_PRESENT and "one of the requests" in verdict.why
    halves = replace(done[SetName.FORGET], requests=np.repeat([0, 1], 300))
    assert judge({**done, SetName.FORGET: halves}, TERMS).answer is Answer.FORGOTTEN


def test_half_untouched_and_half_overshot_is_not_proved_by_the_mean() -> None:
    sets = sets_of(100, 0.0)
    forget = sets[SetName.FORGET]
    split = forget.score + np.where(np.arange(100) % 2, 4.0, -4.0)
    before = judge(sets, TERMS).residuals[0]
    after = judge({**sets, SetName.FORGET: replace(forget, score=split)}, TERMS).residuals[0]
    assert after.high is not None and before.high is not None and after.high - before.high > 0.2


def test_a_file_that_knows_them_is_not_released_because_the_original_did_not() -> None:
    sets = unknown(sets_of(200, 1.0))
    verdict = judge(sets, replace(TERMS, release_unmeasurable=True))
    assert verdict.answer is Answer.STILL_PRESENT and not verdict.passed


def test_unseen_images_are_of_other_people_where_enough_are_left() -> None:
    sets = sets_of(200, 0.6)
    forget, test = sets[SetName.FORGET], sets[SetName.TEST]
    own = np.arange(len(test.labels)) < 150  # half of the test images are of people who were trained on
    people = np.where(own, 0, 10_000 + np.arange(len(own)))
    known = replace(test, people=people, score=test.score + own, score_before=test.score_before + own)  # type: ignore[operator]
    given = {**sets, SetName.FORGET: replace(forget, people=np.zeros(200, int))}
    (fair,) = judge({**given, SetName.TEST: test.take(~own)}, TERMS).residuals
    (found,) = judge({**given, SetName.TEST: known}, TERMS).residuals
    assert found.value == pytest.approx(fair.value)


def test_too_few_test_images_give_way_to_validation_images() -> None:
    sets = sets_of(200, 0.0)
    few = sets[SetName.TEST].take(np.arange(5))
    assert judge({**sets, SetName.TEST: few}, TERMS).answer is Answer.NOT_MEASURABLE
    sets[SetName.VALIDATION] = sets[SetName.TEST]
    assert judge({**sets, SetName.TEST: few}, TERMS).answer is Answer.FORGOTTEN


def test_images_that_every_reference_knows_are_left_out_and_never_hold_up_retraining() -> None:
    sets = sets_of(200, 0.0)
    for name in (SetName.RETAIN, SetName.TEST):
        references = sets[name].references
        assert references is not None
        sets[name] = replace(
            sets[name], references=np.where(np.arange(len(references)) == 3, np.nan, references)
        )
    assert judge(sets, TERMS).answer is Answer.FORGOTTEN
    broken = {**sets, SetName.FORGET: replace(sets[SetName.FORGET], score=np.full(200, np.nan))}
    assert judge(broken, replace(TERMS, exact=True)).answer is Answer.RETRAINED
