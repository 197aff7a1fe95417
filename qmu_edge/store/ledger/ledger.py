"""The ledger: what the objects of a store mean, and what happened to each request.

Contract. Every method that changes something is one transaction, or a part of the caller's
(`with ledger.change()`), and leaves an event in the hash chain of `qmu_edge.store.ledger.chain`. Work is
written down before it starts, goes into new objects, and becomes current in one step (`commit_release`).
Requests, their steps and what they bar are in `qmu_edge.store.ledger.requests`. Samples and subjects stand in
`samples` and `tombstones` only, never in an event; keep them out of a step's `detail` too.

Times are RFC 3339 text in UTC; digests are 64 lower-case hex digits.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from qmu_edge.io.canonical import canonical
from qmu_edge.store.ledger.purges import REMOVAL, REMOVALS, RemovalLedger
from qmu_edge.store.ledger.receipts import ReceiptLedger
from qmu_edge.store.ledger.requests import RequestLedger
from qmu_edge.store.ledger.samples import SampleLedger


class Ledger(ReceiptLedger, RemovalLedger):
    """An open ledger; `create`, `open`, `close`, `head` and `problems` come from `ChainedFile`.

    Its errors do too, from every method; the sample index from `SampleLedger`, requests and steps from
    `RequestLedger`, receipts and current objects from `ReceiptLedger`, removals from `RemovalLedger`.
    """

    APPLICATION_ID: ClassVar[int] = 0x514D5545  # "QMUE"
    VERSION: ClassVar[int] = 2
    READABLE: ClassVar[tuple[int, ...]] = (1, 2)  # before 2 what the chain says of people has no salt
    SCHEMA: ClassVar[tuple[str, ...]] = (
        *RequestLedger.SCHEMA,
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        *SampleLedger.SCHEMA,
        """CREATE TABLE keys (seq INTEGER PRIMARY KEY, public_key TEXT NOT NULL UNIQUE,
            since TEXT NOT NULL, first_receipt INTEGER NOT NULL,
            until TEXT, last_receipt INTEGER, reason TEXT)""",
        *ReceiptLedger.SCHEMA,
        REMOVALS,
    )
    FACTS: ClassVar[Mapping[str, str]] = {
        **RequestLedger.FACTS,
        "meta": "SELECT key, value, NULL FROM meta",
        **SampleLedger.FACTS,
        "receipt": "SELECT seq AS key, * FROM receipts",
        "key": "SELECT seq AS key, * FROM keys",
        "current": "SELECT name AS key, digest, NULL FROM current",
        "removal": REMOVAL,
    }

    def meta(self, key: str) -> Any:
        """The JSON value kept under `key`; None when there is none."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return self._parsed(found[0][0]) if found else None

    def notes(self, *kinds: str) -> list[tuple[str, Any]]:
        """All keys that begin with one of the kinds and a colon, with their values."""
        rows = self.rows("SELECT key, value FROM meta ORDER BY key")
        return [
            (key, self._parsed(text)) for key, text in rows if key.partition(":")[0] in kinds and ":" in key
        ]

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`, a fixed word.

        Raises:
            LedgerError: The value is not JSON.
        """
        text = canonical(value, f"ledger {self.path}: meta {key!r}").decode()
        with self.change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))
            self.append("meta", key)
