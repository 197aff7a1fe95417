"""The one reader of JSON, and the encoding of JSON that is stored.

`parse_object` reads JSON from strangers. It is bounded before it is parsed, and nothing is accepted that two
readers may differ on: at most 1 MiB of UTF-8, nested at most 16 levels, no key twice, no number that a double
cannot hold, no control or invisible characters, all text in Unicode normal form NFC. What is left has one RFC
8785 form, so a digest of it means something.

`parse_stored` and `parse_stored_value` read what this program has written. `compact` writes objects that are
found by the digest of their bytes; the other encoding, RFC 8785, is in `qmu_edge.io.canonical`, which says
which is used where.
Standard library only.
"""

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Never

from qmu_edge.errors import IntegrityError, QmuEdgeError

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
MAX_INTEGER: Final = 2**53 - 1  # the largest that RFC 8785 can carry

# Unicode's Cc, Cf, Cs, Zl, Zp and Default_Ignorable_Code_Point: what a reader does not see, or what turns
# the text around it. Two ids that differ only in these would look the same to everybody.
INVISIBLE_RANGES: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    r"\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
INVISIBLE: Final = re.compile(f"[{INVISIBLE_RANGES}]")
# Possessive, and with an optional closing quote: every character is visited once, whatever comes.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_object(
    data: bytes, what: str, error: type[QmuEdgeError], *, limit: int = MAX_BYTES
) -> dict[str, Any]:
    """The JSON object that `data` is; integers, floats, text, lists and dicts below it.

    Args:
        data: From anybody.
        what: What messages call it.
        error: What to raise.
        limit: Most bytes it may have.

    Raises:
        QmuEdgeError: An `error`: it is no object, or breaks a rule above; the message has the path of the
            field.

    >>> parse_object(b'{"a": [1, 2]}', "x.json", IntegrityError)
    {'a': [1, 2]}
    >>> parse_object(b'{"a": {"b": 1, "b": 2}}', "x.json", IntegrityError)
    Traceback (most recent call last):
    qmu_edge.errors.IntegrityError: x.json: a: key 'b' appears twice
    """
    if len(data) > limit:
        raise error(f"{what}: larger than the allowed {limit} bytes")
    try:
        text = data.decode("utf-8")
        if nests_too_deep(text):
            raise error(f"{what}: nested deeper than the allowed {MAX_DEPTH} levels")
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=lambda name: _Refused(f"{name} is not a JSON number"),
        )
    except UnicodeDecodeError as problem:
        raise error(f"{what}: not UTF-8 at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise error(f"{what}: not JSON: {problem}") from None
    except RecursionError:
        raise error(f"{what}: nested deeper than the allowed {MAX_DEPTH} levels") from None
    if found := flaw(document):
        raise error(f"{what}: {found}")
    if not isinstance(document, dict):
        raise error(f"{what}: must be a JSON object, like {{...}}")
    return document


def parse_stored(data: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object that this program has written: of any size and text, but no key twice and no NaN.

    Raises:
        IntegrityError: It is something else; the message begins with `what`.

    >>> parse_stored('{"a": 1.0}', "a stored object")
    {'a': 1.0}
    >>> parse_stored("[]", "a stored object")
    Traceback (most recent call last):
    qmu_edge.errors.IntegrityError: a stored object is not an object
    """
    document = parse_stored_value(data, what)
    if not isinstance(document, dict):
        raise IntegrityError(f"{what} is not an object")
    return document


def parse_stored_value(data: Any, what: str, error: type[QmuEdgeError] = IntegrityError) -> Any:
    """As `parse_stored`, but any JSON value.

    Raises:
        QmuEdgeError: An `error`: it is something else; the message begins with `what`.

    >>> parse_stored_value("[1, null]", "a note")
    [1, None]
    """
    try:
        return json.loads(data, object_pairs_hook=_distinct, parse_constant=_no_number)
    except (ValueError, TypeError, RecursionError) as problem:  # TypeError: a number in a crafted SQLite file
        raise error(f"{what} is not JSON: {problem}") from None


def compact(value: Any) -> bytes:
    r"""The encoding of a stored JSON value: keys sorted, no spaces, ASCII; one value has one byte string.

    >>> compact({"b": 1.0, "a": ["\u00e9", None]})
    b'{"a":["\\u00e9",null],"b":1.0}'

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def nests_too_deep(text: str) -> bool:
    """Whether brackets outside strings nest too deep; the text need not be JSON.

    >>> nests_too_deep("[" * 17), nests_too_deep("[]" * 17)
    (True, False)
    """
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            return True
    return False


def join(path: str, part: str | int) -> str:
    """Extend a path by a key or a position.

    >>> join(join("", "scope"), 3)
    'scope[3]'
    """
    if isinstance(part, int):
        return f"{path}[{part}]"
    name = part if re.fullmatch(r"[\w-]{1,40}", part) else shown(part)
    return f"{path}.{name}" if path else name


def shown(value: object) -> str:
    """A value from outside, fit for a line of a log: escaped and short."""
    text = repr(value)
    return text if len(text) <= 44 else text[:40] + "..."


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands where the JSON reader met something that is refused, so that it gets a path."""

    reason: str


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | _Refused:
    seen: dict[str, object] = {}
    for key, value in pairs:
        if key in seen:
            return _Refused(f"key {shown(key)} appears twice")
        seen[key] = value
    return seen


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _integer(text: str) -> int | _Refused:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:  # int() of long text is slow, or raises
        return _Refused(f"integer beyond the allowed {MAX_INTEGER}")
    return int(text)


def _float(text: str) -> float | _Refused:
    value = float(text)
    return value if math.isfinite(value) else _Refused("number beyond the range of a double")


def flaw(document: object, *, nfc: bool = True) -> str | None:
    """The first thing in a document that is refused, with its path; None when there is none.

    Args:
        document: What a reader of JSON or TOML made.
        nfc: Whether text must be in Unicode normal form NFC.

    >>> flaw({"a": [1, float("nan")]}), flaw(["ok", None])
    ('a[1]: number beyond the range of a double', None)
    """
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while todo:
        at, value = todo.pop()
        if isinstance(value, dict):
            for key in value:
                if problem := _problem(key, nfc):
                    return f"a key of {_path(at)}: {problem}"
            todo += [((*at, key), value[key]) for key in reversed(value)]
        elif isinstance(value, list):
            todo += [((*at, i), value[i]) for i in range(len(value) - 1, -1, -1)]
        elif problem := _problem(value, nfc):
            return f"{_path(at)}: {problem}"
        if len(at) >= MAX_DEPTH and isinstance(value, dict | list):
            return f"nested deeper than the allowed {MAX_DEPTH} levels"
    return None


def _path(parts: tuple[str | int, ...]) -> str:
    return reduce(join, parts, "") or "the document"


def _problem(value: object, nfc: bool) -> str | None:
    """What is wrong with a value that is no list and no object."""
    if isinstance(value, str):
        if INVISIBLE.search(value):
            return "control characters and invisible ones are not allowed"
        if nfc and not unicodedata.is_normalized("NFC", value):
            return "text must be in Unicode normal form NFC"
        return None
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else f"integer beyond the allowed {MAX_INTEGER}"
    if isinstance(value, float):
        return None if math.isfinite(value) else "number beyond the range of a double"
    return value.reason if isinstance(value, _Refused) else f"a {type(value).__name__} is not allowed"
