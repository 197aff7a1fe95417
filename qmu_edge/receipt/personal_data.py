"""Looks for personal data in a receipt before it is signed.

The fields of a receipt (`qmu_edge.receipt.statement`) leave no room for free text. What is left are words and
numbers. Each of them is compared with everything in the project that identifies somebody (ids, subjects,
pseudonyms, digests of images), and with the forms of addresses, paths, identifiers and pieces of a picture,
whoever they may belong to. The names of fields and the fixed words of the schema identify nobody.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, Final

from qmu_edge.io.digest import is_sha256
from qmu_edge.receipt.fields import MAX_LIST
from qmu_edge.receipt.statement import json_schema

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_URL: Final = re.compile(r"https?://in-toto\.io/\S+")
_LOOKS_LIKE: Final = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*"),
    "an absolute path": re.compile(r"(?<![\w.~])~?/[\w.~-]|\b[A-Za-z]:[\\/]|\\\\\w"),
    "a path or an image file": re.compile(r"\w/\w|\.(png|jpe?g|gif|bmp|tiff?|webp|heic|dng|npy|npz)\b", re.I),
    "a web address": re.compile(r"\w+://|\bwww\.|\bdata:", re.I),
    "a UUID": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I),
    "a telephone number": re.compile(r"\+\d[\d()./ -]{6,}\d"),
    "an address of a machine": re.compile(
        r"\b\d{1,3}(\.\d{1,3}){3}\b|\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.I
    ),
    "encoded data": re.compile(r"[A-Za-z0-9+/_=-]{40,}"),
    "text beyond ASCII": re.compile(r"[^\x20-\x7e]"),
}


def find(statement: object, *, forbidden: Iterable[str], sentences: Collection[str]) -> list[str]:
    """Where a receipt says too much: one line "JSON path: why" for each place.

    A forbidden text is found anywhere inside a text or a field's name, in upper or lower case. One of
    fewer than 4 characters or of digits only must stand alone, or the sample "7" would be found in every
    time and version.

    >>> find({"a": {"b": ["by-c-10492", "x@example.org"]}}, forbidden=["C-10492"], sentences=())
    ['$.a.b[0]: a forbidden text', '$.a.b[1]: an e-mail address']
    >>> find({"a": "asked by Ana"}, forbidden=[], sentences=())
    ['$.a: a sentence that is not one of ours']

    Args:
        statement: A JSON value.
        forbidden: Sample ids, subject ids, pseudonyms, digests of images; read once.
        sentences: Those that may stand in a receipt; they are left out of the search.
    """
    known = {*sentences, *_words_of_the_schema()}
    texts = [(where, text) for where, text in _texts(statement, "$") if text not in known]
    everything = "\n".join(text for _, text in texts).casefold()
    # As a stream: a project may have a million ids, and next to none of them occurs.
    suspects = {f for f in map(str.casefold, forbidden) if f in everything and f.strip()}
    finds = [f"{where}: a list of numbers, as long as a picture" for where in _long_lists(statement, "$")]
    for where, text in texts:
        if any(_mentions(text.casefold(), suspect) for suspect in suspects):
            finds.append(f"{where}: a forbidden text")
        finds += [f"{where}: {what}" for what in _forms_in(text)]
    return finds


def is_plain_word(name: str) -> bool:
    """Whether a name that somebody else chose, as of a layer, is a plain word of ASCII that names nobody.

    >>> is_plain_word("stem.weight"), is_plain_word("Ana's layer"), is_plain_word("ana@example.org")
    (True, False, False)
    """
    return _WORD.fullmatch(name) is not None and not find(name, forbidden=(), sentences=())


def _forms_in(text: str) -> Iterator[str]:
    if is_sha256(text):
        return
    plain = _URL.sub("", text)
    yield from (what for what, pattern in _LOOKS_LIKE.items() if pattern.search(plain))
    if " " in plain:
        yield "a sentence that is not one of ours"


@cache
def _words_of_the_schema() -> frozenset[str]:
    """Every field's name and every fixed word of the published schema."""
    return frozenset(_schema_words(json_schema()))


def _schema_words(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        yield from (w for w in (*schema.get("enum", ()), schema.get("const")) if isinstance(w, str))
        schema = list(schema.values())
    if isinstance(schema, list):
        for item in schema:
            yield from _schema_words(item)


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with its path; a field's name counts as a text of its object."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield where, name
            yield from _texts(item, f"{where}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]")


def _long_lists(value: object, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _long_lists(item, f"{where}.{name}")
    elif isinstance(value, list):
        if len(value) > MAX_LIST and all(isinstance(item, int | float) for item in value):
            yield where
        for number, item in enumerate(value):
            yield from _long_lists(item, f"{where}[{number}]")


def _mentions(text: str, forbidden: str) -> bool:
    """Both in lower case; see `find` for what counts.

    >>> _mentions("seen c-10492.png", "c-10492"), _mentions("torch 2.7.0", "7")
    (True, False)
    >>> _mentions("sample 7 is out", "7"), _mentions("7", "7")
    (True, True)
    """
    if len(forbidden) >= 4 and not forbidden.isdigit():
        return forbidden in text
    return re.search(rf"(?<![\w.:-]){re.escape(forbidden)}(?![\w:-]|\.\w)", text) is not None
