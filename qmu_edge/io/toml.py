"""TOML as it may come from anybody, and values as TOML."""

import json
import re
import tomllib
from typing import Any, Final

from qmu_edge.errors import ConfigError
from qmu_edge.io.json import MAX_DEPTH, flaw, nests_too_deep

_LONG_KEY: Final = re.compile(r"(?:[^\s.=#]++[ \t]*+\.[ \t]*+){17}")


def parse_toml(text: str, source: object) -> dict[str, Any]:
    """The tables of a TOML document.

    Args:
        text: The document.
        source: What to call it in an error.

    Raises:
        ConfigError: Not TOML, nested too deep, or a text in it is none that can be shown.
    """
    if nests_too_deep(text) or _LONG_KEY.search(text):  # for these tomllib takes long
        raise ConfigError(f"{source}: not valid TOML: nested deeper than the allowed {MAX_DEPTH} levels")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an endless integer is no TOMLDecodeError
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    if problem := flaw(document, nfc=False):  # a folder's name is as its file system has it
        raise ConfigError(f"{source}: {problem}")
    return document


def pairs(table: dict[str, Any]) -> list[str]:
    """The lines of a table. TOML has no null: what is None is left out.

    >>> pairs({"size": 8, "path": None})
    ['size = 8']
    """
    return [f"{key} = {value_text(value)}" for key, value in table.items() if value is not None]


def value_text(value: Any) -> str:
    """A value as TOML.

    >>> value_text([True, "a", 0.5])
    '[true, "a", 0.5]'
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(value_text(v) for v in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)
