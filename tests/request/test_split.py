"""The sets of a run: of one request or of many, and what they leave nothing of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import RequestError
from qmu_edge.io.digest import Sha256
from qmu_edge.request.resolve import resolve, tombstones_of
from qmu_edge.request.split import EmptiedClasses, divide, emptied_classes
from tests.request.samples import INDEX, KEY, ROWS, ask, make_index, names, split_of


def test_digest_and_counts() -> None:
    split = split_of(INDEX, ask(sample_ids=["t0"]), key=KEY)
    assert split.digest() == split_of(INDEX, ask(sample_ids=["t0"]), key=KEY).digest()
    empty = np.array([], np.int64)
    for part in ("forget", "retain", "validation", "test"):
        assert replace(split, **{part: empty}).digest() != split.digest()  # type: ignore[arg-type]
    assert replace(split, index_digest=Sha256("0" * 64)).digest() != split.digest()
    moved = replace(split, forget=split.retain, retain=split.forget)
    assert moved.digest() != split.digest()
    assert split.index_digest == INDEX.digest()
    assert split.counts() == {
        "forget": 1,
        "retain": 3,
        "validation": 2,
        "test": 3,
        "also_erased": 0,
        "requests": 1,
        "copies": 0,
        "duplicates_retained": 1,
        "unmatched_subjects": 0,
    }


def test_one_split_fulfils_many_requests() -> None:
    claims = [
        resolve(INDEX, ask(sample_ids=["t0"]), key=KEY),
        resolve(INDEX, ask(subject_ids=["ana"]), key=KEY),
    ]
    claimed = np.array([i == "t3" for i in INDEX.ids])
    split = divide(INDEX, claims, claimed=claimed)
    assert names(split) == {
        "forget": "t0",
        "retain": "t1 t2",
        "validation": "v1",
        "test": "e0 e2",
        "also_erased": "v0 e1",
    }
    assert (split.scope, split.requests) == ("mixed", 2)


NOBODY = np.zeros(len(ROWS), np.bool_)


def test_a_class_that_is_only_claimed_is_not_emptied() -> None:
    claimed = INDEX.labels == 0
    split = divide(INDEX, [resolve(INDEX, ask(subject_ids=["ana"]), key=KEY)], claimed=claimed)
    assert names(split)["retain"] == "t2 t3" and emptied_classes(INDEX, split, NOBODY) == EmptiedClasses(
        (), True
    )
    assert emptied_classes(INDEX, split, claimed) == EmptiedClasses(
        (0,), False
    )  # once the other request is served


@pytest.mark.parametrize(
    ("fields", "expected", "test"),
    [
        ({"sample_ids": ["t0"]}, EmptiedClasses((), True), "e0 e1 e2"),
        ({"sample_ids": ["t0", "t1"]}, EmptiedClasses((0,), False), "e1 e2"),  # all there are
        ({"class_ids": [0]}, EmptiedClasses((0,), False), "e1 e2"),
        ({"sample_ids": ["t0", "t1", "t2"]}, EmptiedClasses((0,), True), "e1 e2"),
        ({"subject_ids": ["bo"]}, EmptiedClasses((1,), False), "e0"),  # a class that nobody named
    ],
)
def test_a_class_of_which_nothing_is_left_is_emptied(
    fields: Any, expected: EmptiedClasses, test: str
) -> None:
    index = make_index([*ROWS, ("t4", "p9", 2, "train", "eve")])  # something of another class is left
    split = split_of(index, ask(**fields), key=KEY)
    assert emptied_classes(index, split, np.zeros(len(index.ids), np.bool_)) == expected
    assert " ".join(index.ids[i] for i in split.test) == test


def test_copies_of_a_named_class_under_another_label_change_nothing() -> None:
    rows = [*ROWS, ("t4", "p1", 1, "train", "")]  # the pixels of t1
    index = make_index(rows)
    split = split_of(index, ask(class_ids=[0]), key=KEY)
    assert [index.ids[i] for i in split.forget] == ["t0", "t1", "t4"]
    assert emptied_classes(index, split, np.zeros(len(rows), np.bool_)) == EmptiedClasses((0,), False)


def test_nothing_may_be_left_to_forget_or_to_retain() -> None:
    one, two = (resolve(INDEX, ask(class_ids=[c]), key=KEY) for c in (0, 1))
    with pytest.raises(RequestError, match="left to retain") as caught:
        divide(INDEX, [one, two])
    assert caught.value.reason == "nothing_left"
    with pytest.raises(RequestError, match="left to unlearn"):
        divide(INDEX, [one], barred=tombstones_of(INDEX, one))
