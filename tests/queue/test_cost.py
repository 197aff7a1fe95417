"""What a request is expected to cost: methods are planned by it; seconds follow from what was measured."""

from typing import Any

import pytest

from qmu_edge.project.project import Project
from qmu_edge.project.results import TRAINING_COST
from qmu_edge.queue import lifecycle
from qmu_edge.queue.cost import AROUND_EPOCHS, AROUND_S, Costs, expect
from qmu_edge.queue.schedule import plan, rungs
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Passes
from qmu_edge.store.ledger.states import Step
from tests.queue.people import NO_CLASSES, ask, change, references

PASSES = {"held_out_match": Passes(0.0, 4.0), "retrain": Passes(0.0, 12.0)}


def planned(project: Project, passes: dict[str, Passes], name: str = "1", asked: str | None = None) -> Any:
    row = lifecycle.register(project, ask(name))
    claim = project.samples.claim(project.ledger.open_details(Step.RESOLVED)[row.request_id])
    return plan(project, [row], [claim], asked, passes)


def test_where_retraining_costs_no_more_it_comes_at_once(project: Project) -> None:
    project = change(project, retrain_above="off", when_not_measurable="release")
    cheap = planned(project, PASSES)
    assert cheap.rungs == ("held_out_match", "retrain") and cheap.forced_by == ""
    dear = planned(project, PASSES | {"held_out_match": Passes(0.0, 12.0)})
    assert dear.rungs == ("retrain",)
    assert dear.forced_by.startswith("retraining is expected to cost no more: ")
    assert planned(project, PASSES | {"held_out_match": Passes(0.0, 11.9)}).rungs == cheap.rungs
    # What somebody asks for is tried all the same.
    assert planned(project, {"qmul": Passes(90.0, 90.0)} | PASSES, asked="qmul").rungs == ("qmul",)


def test_another_reason_is_said_first() -> None:
    costs = Costs(images={"held_out_match": 9.0, "retrain": 9.0}, per_image=0.0, around=0.0)
    policy = PolicyRecipe()
    _, why = rungs(policy, None, NO_CLASSES, 0.6, None, costs)
    assert why.startswith("60.0% of the training images")
    names, why = rungs(policy, None, NO_CLASSES, 0.1, None, costs)
    assert names == ("retrain",) and why.endswith("9 images, and held_out_match 9 images")


def test_seconds_follow_from_the_last_training(project: Project) -> None:
    made = planned(project, PASSES)
    assert [made.expected.seconds(name) for name in PASSES] == [None, None]  # nothing was measured
    split, ledger, results = made.split, project.ledger, project.results
    ledger.set_meta(TRAINING_COST, {"seconds": 60.0, "images": 100, "epochs": 6.0})
    found = expect(ledger, results, project.recipe, split, PASSES)
    assert found.per_image == pytest.approx(0.1)
    around = AROUND_S + AROUND_EPOCHS * 0.1 * (len(split.retain) + len(split.forget))
    assert found.seconds("retrain") == pytest.approx(12 * 0.1 * len(split.retain) + around)
    assert found.seconds("qmul") is None
    # A note of an older version says for how many images, and not how often.
    ledger.set_meta(TRAINING_COST, {"seconds": 60.0, "images": 100})
    assert results.seconds_per_image(12) == pytest.approx(0.05)


def test_references_that_are_trained_for_the_request_cost_the_approximate_method(project: Project) -> None:
    split = planned(project, PASSES).split
    each = references(project, "per_request")
    epochs = each.recipe.references.epochs or each.recipe.train.epochs
    found = expect(project.ledger, project.results, each.recipe, split, PASSES)
    assert found.images["held_out_match"] == (4.0 + 0.5 * epochs) * len(split.retain)
    assert found.images["retrain"] == 12.0 * len(split.retain)


def test_passes_are_of_both_sets_and_the_smaller_one_of_pairs_is_repeated() -> None:
    assert Passes(2.0, 1.0).over(3, 7) == 13.0
    munba = Passes(0.0, 0.0, 10.0, 128, 128)
    assert munba.over(20, 1280) == 10 * (10 * 20 + 1280)  # `first` is more than there are
    assert munba.over(1280, 1280) == munba.over(640, 1280) == 10 * 2 * 1280
    assert Passes(0.0, 0.0, 1.0, 32, 96).over(640, 960) == 20 * 128  # the forget set decides


def test_passes_are_found_for_the_recipe_that_they_were_noted_for(project: Project) -> None:
    results, digest = project.results, project.recipe.digest()
    assert results.passes(digest) == {}
    results.note_passes(digest, PASSES)
    assert results.passes(digest) == PASSES
    assert results.passes(change(project, max_residual=0.3).recipe.digest()) == {}
    events = project.ledger.event_count()
    results.note_passes(digest, PASSES)  # nothing new
    assert project.ledger.event_count() == events
