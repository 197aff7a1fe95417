"""Requests resolved: who goes, who stays, and what is refused rather than half done."""

import hmac
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qmu_edge.data.columns import Digests
from qmu_edge.errors import NoMatchError, RequestError
from qmu_edge.request.resolve import resolve, shared_with_others, tombstones_of
from qmu_edge.request.split import divide
from tests.request.samples import INDEX, KEY, ROW, TWINS, Row, ask, make_index, names, split_of


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
    ({"sample_ids": ["t0"]}, ALL_TRAIN[1:], RequestError, "names every training sample that is left but 0"),
    ({"sample_ids": ALL_TRAIN[1:]}, [], RequestError, "left but 1; allowed all but 2"),
    ({"sample_ids": ["t0"]}, ALL_TRAIN[2:], RequestError, "left but 1; allowed all but 2"),
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


def slow_barred(rows: list[Row], dead: set[str]) -> set[str]:
    """The re-ingestion guard, one sample at a time."""
    barred, before = set(dead), None
    while barred != before:
        before = set(barred)
        for name, pixels, _, _, subject in rows:
            deleted = [row[4].split() for row in rows if row[0] in before and row[1] == pixels]
            owners = {one for people in deleted for one in people}
            if deleted and (subject == "" or owners & {*subject.split()}):
                barred.add(name)
    return barred


def slow_sets(
    rows: list[Row], classes: list[int], subjects: list[str], tombstoned: set[str]
) -> dict[str, list[int]]:
    """The rules of `resolve` and `divide`, one sample at a time."""
    sets: dict[str, list[int]] = {
        name: [] for name in ("forget", "retain", "validation", "test", "also_erased")
    }
    named = {row[0] for row in rows if row[2] in classes or {*row[4].split()} & {*subjects}}
    before, after = slow_barred(rows, tombstoned), slow_barred(rows, tombstoned | named)
    for i, (name, _, _, split, _) in enumerate(rows):
        if name in before:
            continue
        if name in after:
            sets["forget" if split == "train" else "also_erased"].append(i)
        else:
            sets["retain" if split == "train" else split].append(i)
    forgotten, kept = ({rows[i][2] for i in sets[name]} for name in ("forget", "retain"))
    for name in ("validation", "test"):
        sets[name] = [i for i in sets[name] if rows[i][2] not in forgotten - kept]
    return sets


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
    assume(all(any(subject in row[4].split() for row in rows) for subject in subjects))
    tombstoned = {str(i) for i in dead} & {row[0] for row in rows}
    expected = slow_sets(rows, list(classes), list(subjects), tombstoned)
    request = ask(class_ids=sorted(classes), subject_ids=sorted(subjects))
    if not expected["forget"] or len(expected["retain"]) < 2:
        with pytest.raises(RequestError):
            split_of(make_index(rows), request, key=KEY, tombstoned=tombstoned)
        return
    split = split_of(make_index(rows), request, key=KEY, tombstoned=tombstoned)
    for name, positions in expected.items():
        assert getattr(split, name).dtype == np.int64
        assert getattr(split, name).tolist() == positions
    forgotten = {rows[i][1] for i in expected["forget"]}
    assert split.duplicates_retained == sum(rows[i][1] in forgotten for i in expected["retain"])


def test_copies_are_deleted_openly_and_the_other_persons_are_counted() -> None:
    index = make_index([*TWINS, ("another", "r", 1, "train", "")])
    found = resolve(index, ask(sample_ids=["ana1"]), key=KEY)
    assert [index.ids[i] for i in found.forget] == ["ana1", "ana2", "nobody"]
    assert [index.ids[i] for i in found.also_erased] == ["test"]
    split = divide(index, [found])
    assert [index.ids[i] for i in split.retain] == ["bo1", "other", "another"]
    assert (split.counts()["copies"], split.counts()["duplicates_retained"]) == (3, 1)
    his = resolve(index, ask(subject_ids=["bo"]), barred=tombstones_of(index, found), key=KEY)
    assert [index.ids[i] for i in his.forget] == ["bo1"]


def test_what_is_known_of_a_request_is_taken_when_asked_for() -> None:
    for sample_ids in (["t1", "x"], ["t1", "e0"]):
        with pytest.raises(RequestError) as caught:
            resolve(INDEX, ask(sample_ids=sample_ids), key=KEY)
        assert caught.value.reason == "partial"
        found = resolve(INDEX, ask(sample_ids=sample_ids), key=KEY, partial=True)
        assert found.partial and [INDEX.ids[i] for i in found.forget] == ["t1"]
    assert not resolve(INDEX, ask(sample_ids=["t1"]), key=KEY, partial=True).partial
    with pytest.raises(NoMatchError):
        resolve(INDEX, ask(sample_ids=["x"]), key=KEY, partial=True)


PICTURES: list[Row] = [
    ("ana", "p0", 0, "train", "ana"),
    ("both", "p1", 0, "train", "ana bo"),
    ("both again", "p1", 1, "train", "bo"),
    ("bo", "p2", 1, "train", "bo"),
    ("eve", "p1", 1, "train", "eve"),
    ("eve too", "p4", 0, "train", "eve"),
    ("both tested", "p3", 1, "test", "bo ana"),
]


def test_each_person_in_a_picture_may_delete_it_and_what_the_others_lose_is_counted() -> None:
    index = make_index(PICTURES)
    found = resolve(index, ask(subject_ids=["ana"]), key=KEY)
    assert [index.ids[i] for i in found.samples] == ["ana", "both", "both again", "both tested"]
    assert shared_with_others(index, found) == 2
    his = resolve(index, ask(subject_ids=["bo"]), barred=tombstones_of(index, found), key=KEY)
    assert [index.ids[i] for i in his.samples] == ["bo"] and shared_with_others(index, his) == 0
    both = divide(index, [found, resolve(index, ask(subject_ids=["bo"]), key=KEY)])
    assert [index.ids[i] for i in both.forget] == ["ana", "both", "both again", "bo"]


@pytest.mark.parametrize("asked", ["ana", "ana ", "\u00a0ana"])
def test_a_person_whose_name_once_had_blanks_around_it_is_found_whole(asked: str) -> None:
    names = ["ana", "ana ", "\u00a0ana", "bo", "eve"]
    kept = [hmac.digest(KEY, b"qmu-edge subject v1\0" + name.encode(), "sha256").hex() for name in names]
    index = make_index([(name, name, 0, "train", "") for name in names])
    index = replace(index, subjects=Digests.of(kept))
    found = resolve(index, ask(subject_ids=[asked]), key=KEY)
    assert [index.ids[i] for i in found.forget] == names[:3]


def test_an_unknown_name_that_is_known_in_other_letters_is_told() -> None:
    with pytest.raises(
        NoMatchError, match="1 of 1 not in the index, first at position 0; 3 samples have a name"
    ):
        resolve(INDEX, ask(subject_ids=["ANA"]), key=KEY)


def test_where_nobody_is_known_a_request_for_a_person_is_told_so() -> None:
    index = make_index([("a", "p1", 0, "train", ""), ("b", "p2", 1, "train", "")])
    with pytest.raises(NoMatchError, match=r"first at position 0; whose the samples are is not known$"):
        resolve(index, ask(subject_ids=["ana"]), key=KEY)


FOLDERS = [str(i) for i in range(12)]


@pytest.mark.parametrize(
    ("names", "number", "refused"),
    [
        (sorted(FOLDERS), 2, "'10', and there is a class '2'"),
        (sorted(FOLDERS), 10, "'8', and there is a class '10'"),
        (sorted(FOLDERS), 1, ""),  # class "1" is also the second
        (FOLDERS[:10], 7, ""),
        (["3", "cat", "dog", "owl"], 3, "'owl', and there is a class '3'"),
        (["03", "cat", "dog", "owl"], 3, "'owl', and there is a class '03'"),
        (["3", "cat", "dog", "owl"], 2, ""),
        (["cat 2", "2nd", "dog"], 2, ""),
    ],
)
def test_an_index_that_is_the_name_of_another_class_is_refused(
    names: list[str], number: int, refused: str
) -> None:
    rows: list[Row] = [(f"t{i}{j}", f"p{i}{j}", i, "train", "") for i in range(len(names)) for j in range(2)]
    index = make_index(rows, tuple(names))
    if refused:
        with pytest.raises(RequestError, match=refused) as caught:
            resolve(index, ask(class_ids=[number]), key=KEY)
        assert caught.value.reason == "ambiguous_class"
    else:
        found = resolve(index, ask(class_ids=[number]), key=KEY)
        assert set(index.labels[found.forget].tolist()) == {number}
    assert len(resolve(index, ask(class_ids=[names[number]]), key=KEY).forget) == 2
