"""The flaws that JSON and TOML from strangers may have; requests show the rest."""

from datetime import date
from typing import Any

import pytest

from qmu_edge.errors import ConfigError, RequestError
from qmu_edge.io.json import MAX_DEPTH, MAX_INTEGER, flaw, parse_object


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": [1, -1.5, "b", None, True, {}]}, None),
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), "nested deeper than the allowed 16 levels"),
        (nested(100_000 // 2), "nested deeper than the allowed 16 levels"),
        ({"a": {"b": [date(2026, 1, 1)]}}, "a.b[0]: a date is not allowed"),
        ({"a": b"bytes"}, "a: a bytes is not allowed"),
        ({"a": MAX_INTEGER + 1}, f"a: integer beyond the allowed {MAX_INTEGER}"),
        ({"a": float("-inf")}, "a: number beyond the range of a double"),
        ({"a": "\u202e"}, "a: control characters and invisible ones are not allowed"),
        ({"a": {"\u200b": 1}}, "a key of a: control characters and invisible ones are not allowed"),
        ({"e\u0301": 1}, "a key of the document: text must be in Unicode normal form NFC"),
    ],
)
def test_flaws_are_found_and_named(value: object, found: str | None) -> None:
    assert flaw(value) == found


def test_normal_form_is_asked_for_where_it_matters() -> None:
    assert flaw({"path": "e\u0301"}, nfc=False) is None


def test_an_error_is_one_line_that_cannot_steer_a_terminal() -> None:
    error = ConfigError("bad\nname '\x1b[2J\u202e'")
    assert str(error) == "bad name '\\x1b[2J\\u202e'"
    with pytest.raises(RequestError) as caught:
        parse_object(b'{"\\u001b[2J": 1, "\\u001b[2J": 2}')
    assert str(caught.value).isprintable()
