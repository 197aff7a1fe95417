"""Seeded changes to valid documents: the same number makes the same input on every machine."""

import json
import random
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

Change = Callable[[bytearray, random.Random, Sequence[bytes]], None]
NUMBERS = (0, 1, -1, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, 2**53, 2**64, 10**30, float("nan"), float("inf"), "", "a",
    "\u202e", "e\u0301", "\x00", "\ud800", "../../etc/passwd", "/etc/passwd", "a" * 5000, "0" * 64,
    "2026-02-30T00:00:00Z", [], {}, [[]], [None], {"a": 1}, {"": {}}, ["a"] * 50, [{}] * 3,
)  # fmt: skip


def mutated(rng: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A document of the corpus after one to sixteen changes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 8, 16))):
        rng.choice(CHANGES)(data, rng, (*words, rng.choice(corpus)))
    return bytes(data)


def mutated_json(rng: random.Random, corpus: Sequence[Any]) -> bytes:
    """A JSON document of the corpus with one to three values replaced, removed, moved or doubled."""
    document = json.loads(json.dumps(rng.choice(corpus)))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            break
        inside, key = rng.choice(places)
        what = rng.randrange(5)
        if what == 0:
            del inside[key]
        elif what == 1:
            other, at = rng.choice(places)
            inside[key] = deepcopy(other[at]) if at in _keys(other) else None
        elif what == 2 and isinstance(inside, dict):
            inside[rng.choice(("x", "", "a.b", "\n", f"{key} "))] = deepcopy(inside[key])
        else:
            inside[key] = deepcopy(rng.choice(VALUES))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05:
        text = text.replace("{", '{"type": 1, "type": 2, ', 1)
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    for key in _keys(value):
        yield value, key
        yield from _places(value[key])


def _keys(value: Any) -> Any:
    return list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


def _span(data: bytearray, rng: random.Random, most: int = 64) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, min(len(data), start + rng.randint(1, most)))


def _flip(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    at = rng.randrange(len(data) + 1)
    data[at : at + size] = value


def _digits(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    found = list(re.finditer(rb"\d+", data))
    if found:
        place = rng.choice(found)
        data[place.start() : place.end()] = str(rng.choice((*NUMBERS, 10 ** rng.randrange(400)))).encode()


def _insert(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))


def _delete(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    del data[_span(data, rng)]


def _repeat(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    span = _span(data, rng)
    data[span.start : span.start] = data[span] * rng.choice((1, 2, 8, 100))


def _swap(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    span = _span(data, rng)
    piece = data[span]
    del data[span]
    at = rng.randrange(len(data) + 1)
    data[at:at] = piece


def _cut(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _word(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    span, word = _span(data, rng, 16), rng.choice(words)
    if rng.random() < 0.5:
        data[span.start : span.start] = word
    else:
        data[span] = word


def _splice(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    other = words[-1]
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


CHANGES: tuple[Change, ...] = (
    _flip, _flip, _byte, _number, _digits, _insert, _delete, _repeat, _swap, _cut, _word, _word, _splice,
)  # fmt: skip
