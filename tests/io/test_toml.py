"""TOML as it may come from anybody, and values as TOML."""

import math
import tomllib

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.toml import pairs, parse_toml, value_text


def test_what_is_written_is_read_again() -> None:
    table = {"a": 1, "b": 0.25, "c": [True, "x y", [1, 2]], "d": "Zoë ✓"}
    assert parse_toml("\n".join(pairs({**table, "none": None})), "text") == table
    assert tomllib.loads(f"a = {value_text(('x', 1))}") == {"a": ["x", 1]}
    assert math.isclose(tomllib.loads(f"a = {value_text(1e-300)}")["a"], 1e-300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "not valid TOML"),
        ("a = " + "[" * 3000, "nested deeper"),
        ("a." * 3000 + "a = 1", "nested deeper"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ('a = "\\u0000"', "a"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^mine: .*{message}") as caught:
        parse_toml(text, "mine")
    assert len(str(caught.value).splitlines()) == 1
