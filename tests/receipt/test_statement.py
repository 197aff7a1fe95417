"""The published schema and the checker say the same of every document."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from pydantic import ValidationError

import qmu_edge.receipt.statement
from qmu_edge.receipt import receipt
from qmu_edge.receipt.statement import PREDICATE_TYPE, StatementV3, json_schema

SCHEMAS = Path(qmu_edge.__file__).parent / "schemas"
SCHEMA_FILE = SCHEMAS / "erasure-receipt.v3.json"
FILES = Path(__file__).parent / "golden"
GOLDEN = sorted(FILES.glob("receipt.v3-*.json"))
OLDER = sorted(FILES.glob("receipt.v[12]-*.json"))
SCHEMA = jsonschema.Draft202012Validator(json_schema())


def test_published_schema_is_current_and_versioned() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$id"] == PREDICATE_TYPE == "urn:qmu-edge:erasure-receipt:v3"


@pytest.mark.parametrize("path", OLDER, ids=lambda p: p.stem)
def test_the_schemas_of_older_versions_stay_published_for_their_receipts(path: Path) -> None:
    version = path.stem.split(".")[1].split("-")[0]
    old = jsonschema.Draft202012Validator(
        json.loads((SCHEMAS / f"erasure-receipt.{version}.json").read_text())
    )
    document = receipt.loads(path.read_bytes(), path).document()
    assert old.is_valid(document) and not SCHEMA.is_valid(document)
    newer = receipt.loads(GOLDEN[0].read_bytes(), path).document()
    assert not old.is_valid(newer)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_both_accept_a_receipt(path: Path) -> None:
    document = receipt.loads(path.read_bytes(), path).document()
    assert complaint(document) == "" and SCHEMA.is_valid(document)


def complaint(document: object) -> str:
    """What the fields say against a document; "" when it is a receipt's statement."""
    try:
        StatementV3.model_validate(document)
    except ValidationError as error:
        return str(error)
    return ""


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


ODD: list[Any] = [
    None, True, 0, -1, 1, 0.5, -0.5, 2, 2**53, 1e300, "", "word", "two words", "A sentence, like this.",
    "0" * 64, "0" * 65, "2026-11-02T15:04:11Z", "2026-11-02 15:04:11Z", "2026-11-32T15:04:11Z", "/srv",
    "m\u00fc", "exact", [], [1], [None] * 17, ["word"] * 65, {}, {"word": 1}, {"a b": 1},
    {"a": {"b": 1}}, {"a": {"b": {"c": 1}}},
    {f"k{i}": 1 for i in range(65)},
]  # fmt: skip


def _agreed(statement: Any, path: tuple[Any, ...], value: Any) -> bool:
    """Put `value` at a place (... takes it out) and see that both say the same; whether they accept it."""
    document = copy.deepcopy(statement)
    part = document
    for key in path[:-1]:
        part = part[key]
    if value is ...:
        del part[path[-1]]
    elif path:
        part[path[-1]] = value
    else:
        document = value
    good = not complaint(document)
    assert good == SCHEMA.is_valid(document), (path, value, complaint(document))
    return good


def test_both_say_the_same_of_documents_with_one_thing_changed() -> None:
    statement = receipt.loads(GOLDEN[0].read_bytes(), "golden").document()
    places = [p for p in _places(statement) if p]
    accepted = [_agreed(statement, path, ...) for path in places]
    accepted += [_agreed(statement, path, {"a b": 1}) for path in places]
    chosen = random.Random(0).sample([(p, v) for p in places for v in ODD], 400)
    accepted += [_agreed(statement, path, value) for path, value in chosen]
    assert 50 < sum(accepted) < len(accepted) - 300


@pytest.mark.slow
def test_both_say_the_same_at_every_place_with_every_odd_value() -> None:
    statement = receipt.loads(GOLDEN[0].read_bytes(), "golden").document()
    for path in _places(statement):
        for value in ODD:
            _agreed(statement, path, value)
        parent: Any = statement
        for key in path:
            parent = parent[key]
        if isinstance(parent, dict):
            for name in ("more", "a b", "subject"):
                _agreed({**statement}, path, {**parent, name: parent.get(name, 1)})
