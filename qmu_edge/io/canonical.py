"""RFC 8785: the encoding of JSON that others must be able to compute again, and digests of rows.

Bytes that are hashed or signed must never change, so there are two encodings of JSON objects:

- RFC 8785 (`canonical`) for what leaves the project or is chained: the statements of receipts, deletion
  requests (their digest and id are of this form), and the events and notes of the ledger.
- `qmu_edge.io.json.compact` for objects that are found by the digest of their bytes or lie inside a file of
  ours: claims, splits, releases, reports, recipes, headers of checkpoints, metadata of exported files, and
  envelopes, for which a device needs the standard library only. In RFC 8785 the same object would get another
  digest, and what is stored already would not be found again.

They differ in numbers (1.0 is `1.0` in `compact` and `1` in RFC 8785), in characters beyond ASCII (escaped or
not) and in the order of keys that have such characters. `rows_digest` has a form of its own: rows of the
ledger are arrays with a space after each comma, and a value that is no JSON stands there as its `repr`. Two
things keep the spaces of `json.dumps` with sorted keys: the stored measurement of a retrained reference, and
what the name of an attempt is the digest of.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import rfc8785

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256

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


def rows_digest(rows: Iterable[tuple[Any, ...]]) -> Sha256:
    r"""SHA-256 over the rows, one JSON array and a newline each; the order counts.

    >>> rows_digest([(0, "a"), (0, "b")]) == hashlib.sha256(b'[0, "a"]\n[0, "b"]\n').hexdigest()
    True
    """
    sha = hashlib.sha256()
    for row in rows:
        sha.update(_encode(row).encode() + b"\n")
    return Sha256(sha.hexdigest())
