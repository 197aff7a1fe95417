"""RFC 8785 and the digest of rows never change: ledgers, receipts and requests are made of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import LedgerError
from qmu_edge.io.canonical import canonical, rows_digest
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.json import compact


def test_numbers_characters_and_keys_are_as_the_rfc_says() -> None:
    value = {"b": [1, 1.0, -0.0, 1e21, 1e-7, 333333333.33333329], "\u20ac": "\u00fc\n", "\r": True, "a": None}
    expected = '{"\\r":true,"a":null,"b":[1,1,0,1e+21,1e-7,333333333.3333333],"\u20ac":"\u00fc\\n"}'
    assert canonical(value) == expected.encode()


@pytest.mark.parametrize("value", [float("nan"), 2**53, {1: 2}, object(), "\ud800"])
def test_what_is_no_json_is_an_error_that_names_its_subject(value: Any) -> None:
    with pytest.raises(LedgerError, match=r"^event 3 cannot be JSON"):
        canonical({"a": value}, "event 3")


@given(
    st.dictionaries(st.text("abc", min_size=1), st.text(st.characters(max_codepoint=126, min_codepoint=32)))
)
def test_both_encodings_agree_on_ascii_text(value: dict[str, str]) -> None:
    """Which is why an envelope, made without RFC 8785's library, is in its form."""
    assert compact(value) == canonical(value)


def test_rows_are_arrays_with_spaces_and_their_order_counts() -> None:
    rows: list[tuple[Any, ...]] = [(1, "\u00e9", None), (2.5, b"\x00", True)]
    text = '[1, "\\u00e9", null]\n[2.5, "b\'\\\\x00\'", true]\n'
    assert rows_digest(rows) == sha256_of(text.encode()) != rows_digest(rows[::-1])
    assert json.loads(text.splitlines()[0]) == [1, "\u00e9", None]
