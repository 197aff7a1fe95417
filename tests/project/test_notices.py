"""What `init` says of a dataset; the command itself is in `tests/cli/test_small_sets.py`."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmu_edge import api
from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import ConfigError
from qmu_edge.project.notices import notices, require_trainable


def index_of(*parts: tuple[int, int, int], classes: int = 10) -> SampleIndex:
    """Samples in parts of (class, split, how many)."""
    labels = np.array([k for k, _, n in parts for _ in range(n)], np.int64)
    splits = np.array([s for _, s, n in parts for _ in range(n)], np.int8)
    names = [f"{i}" for i in range(len(labels))]
    return SampleIndex.of(
        ids=names, digests=[hashlib.sha256(name.encode()).hexdigest() for name in names], labels=labels,
        splits=splits, subjects=[""] * len(names), class_names=[f"class {k}" for k in range(classes)],
    )  # fmt: skip


def test_thirty_unseen_images_are_enough_and_one_less_is_told() -> None:
    whole = [(0, 0, 2), (1, 0, 2), (0, 1, 1), (1, 2, 2)]
    assert notices(index_of(*whole, (0, 2, 28))) == []
    (told,) = notices(index_of(*whole, (0, 2, 27)))
    assert told.startswith("29 unseen images")


def test_a_class_with_validation_images_only_counts_as_trained_on() -> None:
    assert notices(index_of((0, 0, 9), (1, 0, 9), (2, 1, 9), (0, 2, 20), (1, 2, 20), (2, 2, 20))) == []


def test_of_many_classes_the_first_are_named() -> None:
    train, test = [(k, 0, 9) for k in range(10)], [(0, 1, 9), (0, 2, 40)]
    (told,) = notices(index_of(*train, *test))
    assert told == (
        "classes trained on and never tested: class 1, class 2, class 3, class 4, class 5 and 4 more"
    )


@pytest.mark.parametrize("other", [1, 2])
def test_two_classes_must_be_trained_on(other: int) -> None:
    require_trainable(index_of((0, 0, 1), (1, 0, 1)))
    with pytest.raises(ConfigError, match="training images of 1 classes"):
        require_trainable(index_of((0, 0, 5), (1, other, 5)))


def test_names_of_a_set_that_differ_in_spelling_only_are_said_without_the_name(tmp_path: Path) -> None:
    lines = ["path,label,subject"]
    for i in range(6):
        Image.new("L", (4, 4), 40 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{['Ana B', 'bo', 'ana  b'][i % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), "utf-8")
    made = api.init(tmp_path / "project", dataset=str(tmp_path / "labels.csv"))
    (said,) = [text for text in made["notices"] if "names" in text]
    assert said == "1 names differ in case or spacing only, the first are those of 0.png and 2.png"
