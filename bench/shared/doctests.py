"""Doctests as blocks of code: an extension of griffe, which reads the docstrings for the site."""

import re
from typing import Any, Final

import griffe

EXAMPLE: Final = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.MULTILINE)  # to the next empty line


def fenced(text: str) -> str:
    r"""The text with each doctest in a fence.

    >>> fenced("Says.\n\n>>> f(1)\n[2]\n\nMore.")
    'Says.\n\n```pycon\n>>> f(1)\n[2]\n```\n\nMore.'
    """
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


class Doctests(griffe.Extension):  # type: ignore[misc]
    """Changes every docstring as it is read."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
