"""What ships of a release."""

import numpy as np

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline.release import REMOVED, shipped_names


def test_the_name_of_a_class_goes_with_the_last_of_its_training_images() -> None:
    """Of four classes one is deleted whole, one in part, one has test images only, and one is untouched."""
    labels = np.array([0, 0, 1, 1, 2, 3, 0])
    test = np.array([0, 0, 0, 0, 1, 0, 1])
    splits = np.where(test, SampleSplit.TEST, SampleSplit.TRAIN).astype(np.int8)
    index = SampleIndex.of(
        ids=[f"{i}.png" for i in range(7)], digests=[sha256_of(bytes([i])) for i in range(7)],
        labels=labels.astype(np.int64), splits=splits, subjects=[""] * 7,
        class_names=("ana", "bo", "cleo", "dan"),
    )  # fmt: skip
    names, nothing = index.class_names, np.zeros(7, np.bool_)
    assert shipped_names(names, index, nothing) == ("ana", "bo", "cleo", "dan")
    barred = np.array([1, 1, 1, 0, 1, 0, 0], np.bool_)
    assert shipped_names(names, index, barred) == (REMOVED, "bo", "cleo", "dan")
