"""Results as text for people: nothing is lost, columns are straight."""

import json
from typing import Any

import pytest

from qmu_edge.cli import render

RESULT: dict[str, Any] = {
    "name": "Zoë", "share": 0.123456, "none": None, "empty": [], "rows": [{"a": 1}, {"a": [2, 3]}],
    "deep": {"b": {}},
}  # fmt: skip


def test_nested_values_are_indented_one_to_a_line() -> None:
    assert render.plain(RESULT).split("\n") == [
        "name  Zoë", "share  0.1235", "none  -", "empty  none", "rows", "  -", "    a  1", "  -", "    a",
        "      -  2", "      -  3", "deep", "  b  none",
    ]  # fmt: skip


def test_json_is_the_whole_result_in_its_order() -> None:
    text = render.as_json(RESULT)
    assert json.loads(text) == RESULT
    assert list(json.loads(text)) == list(RESULT) and "Zoë" in text


def test_columns_of_a_table_are_straight() -> None:
    lines = render.table([["name", "n"], ["a", "1000"], ["longer", "7"]]).split("\n")
    assert lines == ["name       n", "a       1000", "longer     7"]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.00"), (0.98765, "98.77"), (1.0, "100.00")])
def test_a_share_is_said_in_percent(value: float | None, text: str) -> None:
    assert render.percent(value) == text
