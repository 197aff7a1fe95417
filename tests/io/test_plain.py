"""Dataclasses as JSON and back: equal when nothing was changed, refused with a path when something was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest

from qmu_edge.errors import IntegrityError, LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.plain import from_json, to_json

EMPTY = sha256_of(b"")


class Colour(StrEnum):
    """An enumeration whose values stand in files."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    """Only simple fields."""

    size: float
    digest: Sha256 = EMPTY
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Tree:
    """Every kind of field that `from_json` knows."""

    name: str
    leaves: tuple[Leaf, ...]
    counts: Mapping[Colour, int]
    kind: Literal["oak", "elm"]
    best: Leaf | None = None
    height: int | float = 0
    notes: Mapping[str, str] = field(default_factory=dict)


TREE = Tree("a", (Leaf(0.5), Leaf(2.0, colour=Colour.BLUE)), {Colour.BLUE: 3}, "elm", Leaf(1.0), 2.5)


def document() -> Any:
    return json.loads(json.dumps(to_json(TREE)))


def test_what_is_written_is_read_back() -> None:
    found = from_json(Tree, document(), "tree")
    assert found == TREE
    assert isinstance(found.leaves[1].colour, Colour) and isinstance(next(iter(found.counts)), Colour)


def test_defaults_and_integers_for_floats() -> None:
    read = from_json(Tree, {"name": "b", "leaves": [{"size": 1}], "counts": {}, "kind": "oak"}, "tree")
    assert read == Tree("b", (Leaf(1.0),), {}, "oak")
    assert type(read.leaves[0].size) is float and type(read.height) is int


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("name"), "tree: name: missing"),
        (lambda d: d.update(more=1), "tree: more: unknown field"),
        (lambda d: d.update(name=1), "tree: name: found 1, allowed str"),
        (lambda d: d["leaves"][1].update(size="2"), r"tree: leaves\[1\].size: found '2', allowed float"),
        (lambda d: d["leaves"][0].update(size=True), r"tree: leaves\[0\].size: found True"),
        (lambda d: d["leaves"][0].update(size=10**400), r"tree: leaves\[0\].size: found 1000"),
        (lambda d: d["leaves"][0].update(colour="green"), r"tree: leaves\[0\].colour: found 'green'"),
        (lambda d: d["leaves"][0].update(digest="AB" * 32), r"tree: leaves\[0\].digest: .*, allowed Sha256"),
        (lambda d: d["leaves"][0].update(colour=[]), r"tree: leaves\[0\].colour: found \[\]"),
        (lambda d: d.update(leaves={}), "tree: leaves: found {}"),
        (lambda d: d.update(counts={"green": 1}), "tree: counts: found 'green'"),
        (lambda d: d["counts"].update(blue=1.0), "tree: counts.blue: found 1.0, allowed int"),
        (lambda d: d.update(kind="ash"), "tree: kind: found 'ash'"),
        (lambda d: d.update(kind=[]), r"tree: kind: found \[\]"),
        (lambda d: d.update(best=[]), r"tree: best: found \[\], allowed Leaf"),
        (lambda d: d.update(height=None), "tree: height: found None"),
    ],
)
def test_another_document_is_refused_with_the_path(change: Any, message: str) -> None:
    changed = document()
    change(changed)
    with pytest.raises(IntegrityError, match=f"^{message}"):
        from_json(Tree, changed, "tree")


@pytest.mark.parametrize("value", [None, 3, "x", []])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(LedgerError, match=r"tree: the document: found .*, allowed Tree"):
        from_json(Tree, value, "tree", error=LedgerError)
