"""The ledger: what the objects of a store mean, and what happened to each request.

Contract. Every method that changes something is one transaction, or a part of the caller's
(`with ledger.change()`), and leaves an event in the hash chain of `qmu_edge.store.ledger.chain`. Work is
written down before it starts, goes into new objects, and becomes current in one step (`commit_release`).
Requests, their steps and what they bar are in `qmu_edge.store.ledger.requests`. Samples and subjects stand in
`samples` and `tombstones` only, never in an event; keep them out of a step's `detail` too.

Times are RFC 3339 text in UTC; digests are 64 lower-case hex digits.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from qmu_edge.io.canonical import canonical
from qmu_edge.store.ledger.chain import now
from qmu_edge.store.ledger.purges import REMOVAL, REMOVALS, RemovalRows
from qmu_edge.store.ledger.requests import Casebook
from qmu_edge.store.ledger.samples import SampleFile

Name = Literal["checkpoint", "release", "receipt"]


class Ledger(Casebook, RemovalRows):
    """An open ledger; `create`, `open`, `close`, `head` and `check` come from `ChainedFile`.

    Its errors do too, from every method, the sample index from `SampleFile`, requests and steps from
    `Casebook`.
    """

    APPLICATION_ID: ClassVar[int] = 0x514D5545  # "QMUE"
    VERSION: ClassVar[int] = 1
    SCHEMA: ClassVar[tuple[str, ...]] = (
        *Casebook.SCHEMA,
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        *SampleFile.SCHEMA,
        """CREATE TABLE receipts (seq INTEGER PRIMARY KEY,
            request_id TEXT REFERENCES requests (request_id),
            receipt_digest TEXT NOT NULL UNIQUE, previous_digest TEXT, issued TEXT NOT NULL)""",
        """CREATE TABLE keys (seq INTEGER PRIMARY KEY, public_key TEXT NOT NULL UNIQUE,
            since TEXT NOT NULL, first_receipt INTEGER NOT NULL,
            until TEXT, last_receipt INTEGER, reason TEXT)""",
        """CREATE TABLE current (
            name TEXT PRIMARY KEY CHECK (name IN ('checkpoint', 'release', 'receipt')),
            digest TEXT NOT NULL CHECK (length(digest) = 64))""",
        REMOVALS,
    )
    FACTS: ClassVar[Mapping[str, str]] = {
        **Casebook.FACTS,
        "meta": "SELECT key, value, NULL FROM meta",
        **SampleFile.FACTS,
        "receipt": "SELECT seq AS key, * FROM receipts",
        "key": "SELECT seq AS key, * FROM keys",
        "current": "SELECT name AS key, digest, NULL FROM current",
        "removal": REMOVAL,
    }

    def current(self, name: Name) -> str | None:
        """Digest of the object that is current under this name."""
        found = self.rows("SELECT digest FROM current WHERE name = ?", name)
        return str(found[0][0]) if found else None

    def set_current(self, name: Name, digest: str) -> None:
        """Make one object current; to change several at once, use `commit_release`."""
        with self.change():
            self._point(name, digest)

    def commit_release(
        self,
        request_id: str | None,
        *,
        checkpoint: str | None,
        release: str | None,
        receipt: str | None,
    ) -> None:
        """Switch to a new state, all of it at once, and add the receipt to the list of receipts.

        Args:
            request_id: Whom the receipt is for; None for a release that no request asked for.
            checkpoint: Digest of the new checkpoint; None leaves the old one.
            release: Digest of the new release; None leaves the old one.
            receipt: Digest of the new receipt; None for none. The current one again is not new.

        Raises:
            LedgerError: The receipt was issued before and another has followed.
        """
        with self.change() as db:
            previous = self.current("receipt")
            if receipt is not None and receipt != previous:
                cursor = db.execute(
                    "INSERT INTO receipts (request_id, receipt_digest, previous_digest, issued)"
                    " VALUES (?, ?, ?, ?)",
                    (request_id, receipt, previous, now()),
                )
                self.append("receipt", cursor.lastrowid or 0, receipt=receipt)
            self._point("checkpoint", checkpoint)
            self._point("release", release)
            self._point("receipt", receipt)

    def meta(self, key: str) -> Any:
        """The JSON value kept under `key`; None when there is none."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return self._parsed(found[0][0]) if found else None

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`, a fixed word.

        Raises:
            LedgerError: The value is not JSON.
        """
        text = canonical(value, f"ledger {self.path}: meta {key!r}").decode()
        with self.change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))
            self.append("meta", key)

    def _point(self, name: Name, digest: str | None) -> None:
        if digest is not None and digest != self.current(name):
            self._db.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (name, digest))
            self.append("current", name, digest=digest)
