"""Errors: one exit code for each class, and a message that is one harmless line."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qmu_edge import errors
from qmu_edge.errors import ConfigError, NoMatchError, QmuEdgeError, RequestError

README = Path(__file__).parents[1] / "README.md"


def test_every_class_has_the_code_of_its_docstring_and_of_the_readme() -> None:
    said = re.findall(r"^ +(\w+) +(\d)  ", str(errors.__doc__), re.MULTILINE)
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, QmuEdgeError)}
    assert {(c.__name__, str(c.exit_code)) for c in classes} == set(said)
    direct = [c.exit_code for c in classes if c.__base__ is QmuEdgeError]
    assert sorted(direct) == [*range(2, 10)]
    codes = re.findall(r"^(\d+) \| ", README.read_text("utf-8"), re.MULTILINE)
    assert {str(c.exit_code) for c in classes} <= set(codes)


@given(st.text())
def test_a_message_is_one_line_that_cannot_steer_a_terminal(text: str) -> None:
    assert str(ConfigError(text)).isprintable()


def test_a_request_error_has_its_word_for_the_ledger() -> None:
    assert (RequestError("a").reason, RequestError("a", reason="b").reason) == ("", "b")
    assert (NoMatchError("a").reason, str(NoMatchError("a"))) == ("no_match", "a")
