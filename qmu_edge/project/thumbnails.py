"""Thumbnails of deleted images, kept for a later project of the same data.

They stand in the ledger, in an order that says nothing of when an image was deleted or with which others, and
under a salt that every change renews: no digest in the chain of events confirms a guess at which were added.
"""

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.alike import SIDE
from qmu_edge.errors import LedgerError
from qmu_edge.store.ledger.ledger import Ledger

_KIND: Final = "thumbnails"
_LENGTH: Final = SIDE * SIDE  # bytes of a thumbnail
_PART: Final = 100_000  # thumbnails in one note: a value of the ledger has an upper bound


def keep(ledger: Ledger, shown: NDArray[np.float32]) -> None:
    """Keep thumbnails (n, 64) beside the ones that are there; a part of the caller's change."""
    with ledger.change():
        texts = sorted({text for _, note in ledger.notes(_KIND) for text in note["values"]} | encoded(shown))
        for part, start in enumerate(range(0, len(texts), _PART)):
            note = {"salt": secrets.token_hex(32), "values": texts[start : start + _PART]}
            ledger.set_meta(f"{_KIND}:{part}", note)


def kept(ledger: Ledger) -> NDArray[np.float32]:
    """The thumbnails (n, 64) that are there.

    Raises:
        LedgerError: Something else is there.
    """
    try:
        data = b"".join(bytes.fromhex(text) for _, note in ledger.notes(_KIND) for text in note["values"])
        values = np.frombuffer(data, np.int8).reshape(-1, _LENGTH).astype(np.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(f"ledger {ledger.path}: thumbnails: {error}") from error
    found: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1)
    return found


def encoded(shown: NDArray[np.float32]) -> set[str]:
    """Each thumbnail of length above 0 as 64 signed bytes, of which the largest is 127, in hex."""
    shown = shown[shown.any(axis=1)]
    scaled = np.round(shown * (127 / np.abs(shown).max(axis=1, initial=0, keepdims=True))).astype(np.int8)
    return {row.tobytes().hex() for row in scaled}
