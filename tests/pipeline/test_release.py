"""What ships of a release: the name of a deleted class in no file, and by the policy no output for it."""

from typing import Any

import numpy as np
import pytest

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline.evaluate import measured_file
from qmu_edge.pipeline.release import REMOVED, blanked, emptied, planned, with_all_outputs
from qmu_edge.project.records import Release, Whole
from qmu_edge.recipe import PolicyRecipe, Recipe

NAMES = ("ana", "bo", "cleo", "dan")
SHA = [sha256_of(bytes([i])) for i in range(9)]
BARRED = np.array([1, 1, 1, 0, 1, 0, 0], np.bool_)


@pytest.fixture
def index() -> SampleIndex:
    """Four classes; the third has test images only."""
    labels = np.array([0, 0, 1, 1, 2, 3, 0])
    test = np.array([0, 0, 0, 0, 1, 0, 1])
    splits = np.where(test, SampleSplit.TEST, SampleSplit.TRAIN).astype(np.int8)
    return SampleIndex.of(
        ids=[f"{i}.png" for i in range(7)], digests=SHA[:7], labels=labels.astype(np.int64), splits=splits,
        subjects=[""] * 7, class_names=NAMES,
    )  # fmt: skip


class Samples:
    """The samples of a project, as far as a plan needs them."""

    def __init__(self, index: SampleIndex, barred: np.ndarray) -> None:
        """Take both."""
        self.index, self.deleted = index, barred

    def barred(self) -> np.ndarray:
        """What was deleted."""
        return self.deleted


def plan_of(index: SampleIndex, policy: str, **options: Any) -> Any:
    policy_recipe = PolicyRecipe.model_validate({"deleted_class": policy})
    plan: Any = planned
    return plan.__wrapped__(NAMES, Samples(index, BARRED), Recipe(policy=policy_recipe), **options)


def test_the_name_of_a_class_goes_with_the_last_of_its_training_images(index: SampleIndex) -> None:
    """Of four classes one is deleted whole, one in part, one has test images only, and one is untouched."""
    assert emptied(index, np.zeros(7, np.bool_)).tolist() == []
    assert emptied(index, BARRED).tolist() == [0]
    assert blanked(NAMES, [1, 2, 3]) == (REMOVED, "bo", "cleo", "dan")


def test_the_policy_says_whether_the_output_goes_too(index: SampleIndex) -> None:
    blank, removed = plan_of(index, "blank"), plan_of(index, "remove", batch=1)
    assert (blank.outputs, blank.class_names) == (None, (REMOVED, "bo", "cleo", "dan"))
    assert (removed.outputs, removed.class_names) == ((1, 2, 3), ("bo", "cleo", "dan"))
    assert removed.digest() != blank.digest()
    whole = with_all_outputs(removed, NAMES)
    assert (whole.outputs, whole.class_names, whole.batch) == (None, blank.class_names, None)


def test_of_a_release_without_an_output_the_file_with_all_is_measured_and_kept() -> None:
    release = Release(checkpoint=SHA[0], files={"model.onnx": SHA[1]}, sizes={"model.onnx": 1})
    assert measured_file(release) == SHA[1] and release.stored() == [SHA[1]]
    assert b"whole" not in release.to_bytes(), "a release that is whole is named as ever"
    cut = Release.parse(
        Release(
            checkpoint=SHA[0], files={"model.onnx": SHA[1]}, sizes={"model.onnx": 1},
            whole=Whole(file=SHA[2], outputs=(1, 2)),
        ).to_bytes()
    )  # fmt: skip
    assert measured_file(cut) == SHA[2] and set(cut.stored()) == {SHA[1], SHA[2]}
    assert cut.whole and cut.whole.outputs == (1, 2)
