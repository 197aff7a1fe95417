"""One encoding of a value, and digests of rows in it."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import rfc8785

from qmu_edge.errors import LedgerError

_encode = json.JSONEncoder(default=repr).encode  # repr: a planted blob must not stop `check`


def canonical(value: Any, subject: str = "value") -> bytes:
    """RFC 8785 form of a JSON value; `subject` is what an error calls it.

    >>> canonical({"b": 1.0, "a": [True, None]})
    b'{"a":[true,null],"b":1}'

    Raises:
        LedgerError: The value is not JSON: NaN, an integer beyond 2**53, another type.
    """
    try:
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{subject} cannot be JSON: {error}") from error


def rows_digest(rows: Iterable[tuple[Any, ...]]) -> str:
    r"""SHA-256 over the rows, one JSON array and a newline each; the order counts.

    >>> rows_digest([(0, "a"), (0, "b")]) == hashlib.sha256(b'[0, "a"]\n[0, "b"]\n').hexdigest()
    True
    """
    sha = hashlib.sha256()
    for row in rows:
        sha.update(_encode(row).encode() + b"\n")
    return sha.hexdigest()
