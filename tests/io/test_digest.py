"""A digest is 64 lower-case hex digits, and nothing else becomes one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import is_sha256, sha256, sha256_of


@given(st.binary(max_size=100))
def test_the_digest_of_bytes_is_a_digest(data: bytes) -> None:
    digest = sha256_of(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert sha256(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        "a" * 64 + "\n",
        " " + "a" * 63,
        "\u0661" * 64,
        "../" + "a" * 61,
    ],
)
def test_other_texts_are_none(text: str) -> None:
    assert not is_sha256(text)
    with pytest.raises(IntegrityError, match="is not 64 lower-case hex digits"):
        sha256(text)
