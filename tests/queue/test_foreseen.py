"""What a verdict could show is known before anything is done, and chooses the methods."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import sha256
from qmu_edge.project.project import Project
from qmu_edge.project.records import Adopted, ReferenceNote
from qmu_edge.queue import lifecycle
from qmu_edge.queue.foreseen import NUMBERS, SEEN, WORTH_TRYING, Foreseen, by_number, foresee, hardly_known
from qmu_edge.queue.schedule import plan, rungs
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import emptied_classes
from qmu_edge.store.ledger.states import Step
from qmu_edge.verify.metrics import effective_number
from qmu_edge.verify.residual import Sensitivity
from tests.queue.people import NO_CLASSES, ask, change, references, split_of

KEEN = Sensitivity(trace=3.0, trace_spread=0.5, noise=0.5, unseen=1e6, intraclass=0.0, references=4)
BLIND = replace(KEEN, trace=0.01)


def shown(project: Project, known: Sensitivity | None, *subjects: str, **fields: Any) -> Foreseen | None:
    """What is foreseen for one request, where tests of the network are known to see this much."""
    project.results.note_sensitivity(known)
    row = lifecycle.register(project, ask(*subjects, **fields))
    split = split_of(project, row)
    emptied = emptied_classes(project.samples.index, split, project.samples.barred())
    return foresee(project.results, project.samples, project.recipe, split, emptied)


def test_what_the_references_can_show_of_a_persons_images(project: Project) -> None:
    found = shown(project, KEEN, "1")
    assert found is not None and (found.images, found.effective, found.references) == (8, 8.0, 4)
    assert (found.detects, found.proves) == (KEEN.power(8.0), KEEN.proof(8.0, 0.25))
    assert found.most == 0.25 and not found.hopeless
    alike = shown(project, replace(KEEN, intraclass=0.5), "2", "3")
    assert alike is not None and alike.images == 16
    people = np.repeat([2, 3], 8)
    assert alike.effective == pytest.approx(effective_number(people, 0.5)) == pytest.approx(16 / 4.5)


def test_little_to_see_is_hopeless_and_said(project: Project) -> None:
    found = shown(project, BLIND, "1")
    assert found is not None and found.proves < WORTH_TRYING and found.hopeless
    assert str(found) == (
        "8 images and 4 references: detects a full trace with 6 %, proves at most 25 % left with 5 %; of 500 "
        "images it would be 12 %: the network is hardly surer of its training images than of unseen ones; a "
        "training of more than [train] epochs = 30 leaves more to measure"
    )
    none = shown(project, None, "2")
    assert none is not None and none.hopeless and none.references == 0
    assert str(none).startswith("no networks that never saw the images: qmu-edge references build")


def test_too_few_unseen_images_are_not_called_missing_references(project: Project) -> None:
    """Ten people have ten images each, one of them for tests and one for validation."""
    for shard in range(3):
        note = ReferenceNote(made_of=sha256("0" * 64), scores=sha256("0" * 64))
        project.results.note_bank(shard, note)
    found = shown(project, None, "1")
    assert found is not None and found.hopeless and found.references == 0
    row = next(r for r in project.ledger.requests())
    unseen = max(len(split_of(project, row).test), len(split_of(project, row).validation))
    assert unseen < 30
    assert str(found) == f"{unseen} unseen images (test, or else validation), at least 30 are needed"


def test_where_references_say_nothing_nothing_is_foreseen(project: Project) -> None:
    assert shown(references(project, "per_request"), KEEN, "1") is None  # not trained yet
    never = shown(references(project, "never"), KEEN, "2")
    assert never is not None and never.references == 0 and never.hopeless
    assert shown(project, BLIND, class_ids=[0]) is None  # whole classes need none


def test_few_images_are_not_the_networks_fault(project: Project) -> None:
    """Of one image little can be shown, of many much; and the other way round."""
    weak = replace(KEEN, trace=0.2)
    found = shown(project, weak, "1")
    assert found is not None and found.hopeless and found.why == "" and weak.power(500.0) > SEEN
    assert "why" not in by_number(weak, project.results, project.recipe)
    blind = by_number(BLIND, project.results, project.recipe)
    assert blind["why"].endswith("[train] epochs = 30 leaves more to measure")


def test_of_an_adopted_network_its_own_epochs_are_named(project: Project) -> None:
    one = sha256("0" * 64)
    adopted = Adopted(run=one, checkpoint=one, weights=one, images=1, accuracy={})
    for found, said in (
        (adopted, "[adopt] epochs = 5"),
        (replace(adopted, retrained=True), "[train] epochs = 30"),
    ):
        project.results.note_adopted(found)
        assert said in hardly_known(BLIND, project.results, project.recipe)


def test_by_number_of_images_a_test_sees_more(project: Project) -> None:
    found = by_number(KEEN, project.results, project.recipe)
    assert found["networks"] == 4 and [*found["detects"]] == [*map(str, NUMBERS)] == [*found["proves"]]
    for name in ("detects", "proves"):
        values = [*found[name].values()]
        assert values == sorted(values) and all(0 <= value <= 1 for value in values)


def foreseen(proves: float) -> Foreseen:
    return Foreseen(images=3, effective=3.0, references=4, detects=0.5, proves=proves, most=0.25)


def test_without_hope_nothing_but_retraining_is_tried() -> None:
    policy, hopeless, fair = PolicyRecipe(), foreseen(WORTH_TRYING - 0.01), foreseen(WORTH_TRYING)
    both = ("held_out_match", "retrain")
    assert rungs(policy, None, NO_CLASSES, 0.1, hopeless) == (("retrain",), str(hopeless))
    assert rungs(policy, None, NO_CLASSES, 0.1, fair) == (both, "")
    assert rungs(policy, None, NO_CLASSES, 0.1, None) == (both, "")
    # What somebody asks for is tried, and so is everything where unmeasurable files are released.
    assert rungs(policy, "qmul", NO_CLASSES, 0.1, hopeless) == (("qmul",), "")
    free = PolicyRecipe(when_not_measurable="release")
    assert rungs(free, None, NO_CLASSES, 0.1, hopeless) == (both, "")
    assert rungs(PolicyRecipe(rungs=("retrain",)), None, NO_CLASSES, 0.1, hopeless) == (("retrain",), "")
    # Another reason is said first, and holds for what is asked for too.
    names, why = rungs(policy, None, NO_CLASSES, 0.6, hopeless)
    assert names == ("retrain",) and why.startswith("60.0% of the training images")
    with pytest.raises(ConfigError, match=r"60\.0%"):
        rungs(policy, "qmul", NO_CLASSES, 0.6, hopeless)


def test_a_plan_holds_what_is_foreseen(project: Project) -> None:
    project = change(project, retrain_above="off")
    row = lifecycle.register(project, ask("1"))
    claim = project.samples.claim(project.ledger.open_details(Step.RESOLVED)[row.request_id])
    for known, names in ((KEEN, ("held_out_match", "retrain")), (BLIND, ("retrain",))):
        project.results.note_sensitivity(known)
        made = plan(project, [row], [claim], None, {})
        assert made.rungs == names and made.foreseen is not None and made.foreseen.images == 8
        assert made.forced_by == (str(made.foreseen) if known is BLIND else "")
