"""JSON from strangers and of our own: the flaws it may have (requests show the rest), and its encoding."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import ConfigError, ExportError, IntegrityError, LedgerError, RequestError
from qmu_edge.io.json import (
    MAX_DEPTH,
    MAX_INTEGER,
    compact,
    flaw,
    parse_object,
    parse_stored,
    parse_stored_value,
)


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
        parse_object(b'{"\\u001b[2J": 1, "\\u001b[2J": 2}', "x.json", RequestError)
    assert str(caught.value).isprintable()


def test_the_reader_raises_what_its_caller_says() -> None:
    for error in (RequestError, LedgerError, ExportError):
        with pytest.raises(error, match=r"^x\.json: larger than the allowed 4 bytes$"):
            parse_object(b'{"a":1}', "x.json", error, limit=4)
    assert parse_object(b'{"a":1}', "x.json", LedgerError, limit=7) == {"a": 1}


# What this program has written.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_stored_is_read_back_and_encoded_the_same(value: dict[str, Any]) -> None:
    data = compact(value)
    assert parse_stored(data, "x") == value and compact(parse_stored(data, "x")) == data
    assert compact(dict(reversed(value.items()))) == data


def test_the_encoding_of_stored_objects_never_changes() -> None:
    """Objects are found by the digest of these bytes; so are whole floats and characters beyond ASCII."""
    value = {"b": [1, 1.0, -0.0, 1e22, 1e-7, True, None], "\u00e9": "\u00fc\u2028/", "a": {}, "B": []}
    expected = r'{"B":[],"a":{},"b":[1,1.0,-0.0,1e+22,1e-07,true,null],"\u00e9":"\u00fc\u2028/"}'
    assert compact(value) == expected.encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"a":1}x', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a":NaN}', "is not JSON: NaN is not a JSON number"),
        (b'{"a":[-Infinity]}', "is not JSON: -Infinity is not a JSON number"),
        (b'{"a":{"b":1,"b":1}}', "is not JSON: a key appears twice"),
        (b"[]", "is not an object"),
        (b"null", "is not an object"),
    ],
)
def test_what_this_program_does_not_write_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(IntegrityError, match=f"^a stored thing {said}"):
        parse_stored(data, "a stored thing")


@pytest.mark.parametrize("data", ["[1, 1.5, null]", b'"\xc3\xbc"', b"3", '{"a": [{}]}'])
def test_a_stored_value_of_any_kind_is_read(data: bytes | str) -> None:
    assert parse_stored_value(data, "a note") == json.loads(data)


@pytest.mark.parametrize("data", ["", b"\xff", '{"a":1,"a":1}', "[NaN]", "[" * 100_000, 3])
def test_what_is_no_stored_value_is_the_callers_error(data: Any) -> None:
    with pytest.raises(LedgerError, match=r"^a note is not JSON: "):
        parse_stored_value(data, "a note", LedgerError)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_hold_is_never_stored(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        compact({"a": [number]})
