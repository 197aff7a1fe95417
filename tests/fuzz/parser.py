"""What a parser is to the fuzzer, and how inputs are made from valid documents."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import mutated, mutated_json

Make = Callable[[random.Random], bytes]
JSON_WORDS = (
    b'"', b"{", b"[" * 20, b"}", b",", b":", b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"\\u0000",
    b"9" * 5000,
    b"\xe2\x80\xae", b"\xff", b"null", b'"a":1,"a":2', b"1" * 18, b"-0", b"0.1e-400",
)  # fmt: skip
SHA = hashlib.sha256(b"something").hexdigest()


@dataclass(frozen=True, slots=True)
class Parser:
    """One reader of untrusted bytes.

    Attributes:
        run: Gets a folder and the file in it that holds the bytes.
        make: Makes an input from a random generator.
        inputs: How many of them the slow tier tries.
        limit_mb: Memory that all of them together may take.
        strict: Whether hardly a change is read, because it is signed; of the others some must be.
    """

    run: Callable[[Path, Path], object]
    make: Make
    inputs: int
    limit_mb: int = 200
    strict: bool = False


def bytes_of(corpus: Callable[[], Sequence[bytes]], *words: bytes) -> Make:
    return lambda rng: mutated(rng, corpus(), words or (b"\0",))


def json_of(corpus: Callable[[], Sequence[Any]]) -> Make:
    texts = cache(lambda: [json.dumps(document).encode() for document in corpus()])
    return lambda rng: (
        mutated_json(rng, corpus()) if rng.random() < 0.6 else mutated(rng, texts(), JSON_WORDS)
    )
