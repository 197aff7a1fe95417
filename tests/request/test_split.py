"""Requests resolved: who goes, who stays, and what is refused rather than half done."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qmu_edge.errors import NoMatchError, RequestError
from qmu_edge.io.digest import Sha256
from qmu_edge.request.resolve import Claim, resolve, tombstones_of
from qmu_edge.request.split import EmptiedClasses, Split, divide, emptied_classes
from tests.request.case import INDEX, KEY, ROW, ROWS, Row, ask, make_index, names, slow_barred, split_of


def test_samples() -> None:
    split = split_of(INDEX, ask(sample_ids=["t3", "t0"]), key=KEY)
    assert names(split) == {
        "forget": "t0 t3",
        "retain": "t1 t2",
        "validation": "v0 v1",
        "test": "e0 e1 e2",
        "also_erased": "",
    }
    assert split.scope == "samples"
    assert split.duplicates_retained == 1


@pytest.mark.parametrize("class_id", ["cat", 0])
def test_class_leaves_validation_and_test_too(class_id: str | int) -> None:
    split = split_of(INDEX, ask(class_ids=[class_id]), key=KEY)
    assert names(split) == {
        "forget": "t0 t1",
        "retain": "t2 t3",
        "validation": "v1",
        "test": "e1 e2",
        "also_erased": "v0 e0",
    }
    assert split.scope == "classes"


@pytest.mark.parametrize("form", ["research", "opendsr"])
def test_subject_leaves_validation_and_test_too(form: Literal["opendsr", "research"]) -> None:
    split = split_of(INDEX, ask(form, subject_ids=["ana"]), key=KEY)
    assert names(split) == {
        "forget": "t0",
        "retain": "t1 t2 t3",
        "validation": "v1",
        "test": "e0 e2",
        "also_erased": "v0 e1",
    }
    assert (split.scope, split.unmatched_subjects) == ("subjects", 0)


def test_mixed() -> None:
    split = split_of(INDEX, ask(sample_ids=["t3"], subject_ids=["ana"]), key=KEY)
    assert (names(split)["forget"], split.scope) == ("t0 t3", "mixed")


def test_one_name_of_a_person_suffices_in_opendsr_only() -> None:
    split = split_of(INDEX, ask("opendsr", subject_ids=["ana@x.org", "ana"]), key=KEY)
    assert names(split)["forget"] == "t0"
    assert split.counts()["unmatched_subjects"] == 1
    with pytest.raises(RequestError, match="1 of 2 not in the index, first at position 0"):
        split_of(INDEX, ask(subject_ids=["ana@x.org", "ana"]), key=KEY)


def test_tombstoned_samples_are_nowhere() -> None:
    split = split_of(INDEX, ask(subject_ids=["ana"]), key=KEY, tombstoned=["t1", "v0", "e2", "old"])
    assert names(split) == {
        "forget": "t0",
        "retain": "t2 t3",
        "validation": "v1",
        "test": "",  # not e0: nothing of its class is left
        "also_erased": "e1",
    }


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


ALL_TRAIN = ["t0", "t1", "t2", "t3"]
REFUSED: list[tuple[dict[str, Any], list[str], type[RequestError], str]] = [
    ({"sample_ids": ["x", "y"]}, [], NoMatchError, "2 of 2 not in the index, first 'x'"),
    ({"sample_ids": ["t0", "x", "y"]}, [], RequestError, "2 of 3 not in the index, first 'x'"),
    ({"sample_ids": ["t0", "e0"]}, [], RequestError, r"never trained on 1 of 2, first 'e0' \(test"),
    ({"sample_ids": ["v1"]}, [], RequestError, r"first 'v1' \(validation\)"),
    ({"class_ids": ["cow"]}, [], NoMatchError, "unknown, first 'cow'; allowed 0 to 2 or cat, dog"),
    ({"class_ids": [3]}, [], NoMatchError, "1 of 1 unknown, first 3"),
    ({"class_ids": ["0"]}, [], NoMatchError, "first '0'"),
    ({"class_ids": ["unused"]}, [], NoMatchError, "have no samples"),
    ({"class_ids": [0, "cow"]}, [], RequestError, "1 of 2 unknown, first 'cow'"),
    ({"subject_ids": ["secret"]}, [], NoMatchError, "1 of 1 not in the index, first at position 0"),
    ({"subject_ids": ["ana", "secret"]}, [], RequestError, "1 of 2 .* position 1"),
    ({"subject_ids": ["secret"], "class_ids": [0]}, [], RequestError, "subject_ids: 1 of 1"),
    (
        {"subject_ids": ["secret"], "sample_ids": ["x"]},
        [],
        NoMatchError,
        "sample_ids.*; subject_id",
    ),
    ({"sample_ids": ["t0"]}, ["t0"], RequestError, "already deleted: all 1"),
    ({"subject_ids": ["ana"]}, ["t0", "v0", "e1"], RequestError, "already deleted: all 3"),
    ({"subject_ids": ["eve"]}, [], RequestError, "1 are validation or test samples"),
    ({"subject_ids": ["ana"]}, ["t0"], RequestError, "1 are already deleted and 2 are validation"),
    ({"sample_ids": [*ALL_TRAIN]}, [], RequestError, "names every training sample"),
    ({"class_ids": [0, 1]}, [], RequestError, "names every training sample"),
    ({"sample_ids": ["t0"]}, ALL_TRAIN[1:], RequestError, "names every training sample"),
]


@pytest.mark.parametrize(("fields", "tombstoned", "error", "message"), REFUSED)
def test_resolve_refuses(
    fields: dict[str, Any],
    tombstoned: list[str],
    error: type[RequestError],
    message: str,
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        split_of(INDEX, ask(**fields), key=KEY, tombstoned=tombstoned)
    assert type(caught.value) is error
    assert str(caught.value).startswith("request r-1: ")
    assert "secret" not in str(caught.value)


def test_another_key_matches_nobody() -> None:
    with pytest.raises(NoMatchError):
        split_of(INDEX, ask(subject_ids=["ana"]), key=b"other")


def test_only_the_first_classes_are_listed() -> None:
    index = replace(INDEX, class_names=tuple(f"class{i}" for i in range(1000)))
    with pytest.raises(NoMatchError, match=r"allowed 0 to 999 or class0, .*, class19, \.\.\.$"):
        split_of(index, ask(class_ids=["cow"]), key=KEY)


def slow_parts(
    rows: list[Row], classes: list[int], subjects: list[str], tombstoned: set[str]
) -> dict[str, list[int]]:
    """The rules of `claim` and `divide`, one sample at a time."""
    parts: dict[str, list[int]] = {
        name: [] for name in ("forget", "retain", "validation", "test", "also_erased")
    }
    named = {row[0] for row in rows if row[2] in classes or row[4] in subjects}
    before, after = slow_barred(rows, tombstoned), slow_barred(rows, tombstoned | named)
    for i, (name, _, _, split, _) in enumerate(rows):
        if name in before:
            continue
        if name in after:
            parts["forget" if split == "train" else "also_erased"].append(i)
        else:
            parts["retain" if split == "train" else split].append(i)
    forgotten, kept = ({rows[i][2] for i in parts[part]} for part in ("forget", "retain"))
    for part in ("validation", "test"):
        parts[part] = [i for i in parts[part] if rows[i][2] not in forgotten - kept]
    return parts


@given(
    st.lists(ROW, min_size=1, max_size=20),
    st.sets(st.sampled_from([0, 1])),
    st.sets(st.sampled_from(["ana", "bo"])),
    st.sets(st.integers(0, 19)),
)
def test_resolve_agrees_with_the_slow_rule(
    drawn: list[tuple[str, int, str, str]], classes: set[int], subjects: set[str], dead: set[int]
) -> None:
    rows = [(str(i), *row) for i, row in enumerate(drawn)]
    assume(all(any(row[4] == subject for row in rows) for subject in subjects))
    tombstoned = {str(i) for i in dead} & {row[0] for row in rows}
    expected = slow_parts(rows, list(classes), list(subjects), tombstoned)
    request = ask(class_ids=sorted(classes), subject_ids=sorted(subjects))
    if not expected["forget"] or not expected["retain"]:
        with pytest.raises(RequestError):
            split_of(make_index(rows), request, key=KEY, tombstoned=tombstoned)
        return
    split = split_of(make_index(rows), request, key=KEY, tombstoned=tombstoned)
    for part, positions in expected.items():
        assert getattr(split, part).dtype == np.int64
        assert getattr(split, part).tolist() == positions
    forgotten = {rows[i][1] for i in expected["forget"]}
    assert split.duplicates_retained == sum(rows[i][1] in forgotten for i in expected["retain"])


# Many requests


def test_one_split_serves_many_requests() -> None:
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


def test_a_class_that_waits_is_not_gone() -> None:
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
    split = split_of(INDEX, ask(**fields), key=KEY)
    assert emptied_classes(INDEX, split, NOBODY) == expected
    assert names(split)["test"] == test


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


def test_a_part_of_a_request_is_taken_when_asked_for() -> None:
    for sample_ids in (["t1", "x"], ["t1", "e0"]):
        with pytest.raises(RequestError) as caught:
            resolve(INDEX, ask(sample_ids=sample_ids), key=KEY)
        assert caught.value.reason == "partial"
        found = resolve(INDEX, ask(sample_ids=sample_ids), key=KEY, partial=True)
        assert found.partial and [INDEX.ids[i] for i in found.forget] == ["t1"]
    assert not resolve(INDEX, ask(sample_ids=["t1"]), key=KEY, partial=True).partial
    with pytest.raises(NoMatchError):
        resolve(INDEX, ask(sample_ids=["x"]), key=KEY, partial=True)


def test_claims_and_splits_come_back_as_they_were() -> None:
    found = resolve(INDEX, ask(subject_ids=["ana"]), key=KEY)
    split = divide(INDEX, [found])
    assert Claim.parse(found.to_bytes()).to_bytes() == found.to_bytes()
    assert Split.parse(split.to_bytes()).digest() == split.digest()
