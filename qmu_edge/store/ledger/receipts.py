"""The part of the ledger that says what is current, and lists every receipt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256, sha256
from qmu_edge.store.ledger.chain import now
from qmu_edge.store.ledger.requests import RequestLedger
from qmu_edge.store.ledger.states import Pointer, Status, Step


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A receipt that was issued.

    Attributes:
        seq: Its number.
        request_id: Whom it is for; None for a release that no request asked for.
        digest: Of the receipt.
        previous: Digest of the receipt before it.
        issued: When.
    """

    seq: int
    request_id: str | None
    digest: Sha256
    previous: Sha256 | None
    issued: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a ledger was: so many `events`, the hash of the last one, and so many tombstones."""

    events: int
    head: str
    tombstones: int


class ReceiptLedger(RequestLedger):
    """Receipts and current objects of an open ledger."""

    SCHEMA: ClassVar[tuple[str, ...]] = (
        """CREATE TABLE receipts (seq INTEGER PRIMARY KEY,
            request_id TEXT REFERENCES requests (request_id),
            receipt_digest TEXT NOT NULL UNIQUE, previous_digest TEXT, issued TEXT NOT NULL)""",
        """CREATE TABLE current (
            name TEXT PRIMARY KEY CHECK (name IN ('checkpoint', 'release', 'receipt')),
            digest TEXT NOT NULL CHECK (length(digest) = 64))""",
    )

    def current(self, name: Pointer) -> Sha256 | None:
        """Digest of the object that is current under this name."""
        found = self.rows("SELECT digest FROM current WHERE name = ?", name)
        return self._digest(found[0][0]) if found else None

    def set_current(self, name: Pointer, digest: str) -> None:
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
            previous = self.current(Pointer.RECEIPT)
            if receipt is not None and receipt != previous:
                cursor = db.execute(
                    "INSERT INTO receipts (request_id, receipt_digest, previous_digest, issued)"
                    " VALUES (?, ?, ?, ?)",
                    (request_id, receipt, previous, now()),
                )
                self.append("receipt", cursor.lastrowid or 0, receipt=receipt)
            self._point(Pointer.CHECKPOINT, checkpoint)
            self._point(Pointer.RELEASE, release)
            self._point(Pointer.RECEIPT, receipt)

    def standing_at(self, request_id: str, run: str, step: str) -> Standing:
        """How far the ledger was when a step was first started: the same whenever it is asked.

        Raises:
            LedgerError: It never was.
        """
        first = """SELECT e.seq - 1, e.previous FROM steps s JOIN events e ON e.what = 'step'
            AND json_extract(e.body, '$.key') = s.seq WHERE s.request_id = ? AND s.run = ? AND s.step = ?
            ORDER BY e.seq LIMIT 1"""
        found = self.rows(first, request_id, run, step)
        if not found:
            raise LedgerError(f"ledger {self.path}: step {step!r} of {request_id} was never started")
        ((events, head),) = found
        return Standing(events, self._digest(head), self.tombstones_said(events))

    def tombstones_said(self, events: int | None = None) -> int:
        """How many tombstones the chain speaks of, in its first `events` events or in all."""
        count = """SELECT coalesce(sum(json_extract(body, '$.count')), 0) FROM events
            WHERE what IN ('tombstones', 'carried') AND seq <= ?"""
        return int(self.rows(count, (1 << 62) if events is None else events)[0][0])

    def hash_of(self, event: int) -> str | None:
        """The hash of the event of this number; None when there are not so many."""
        found = self.rows("SELECT hash FROM events WHERE seq = ?", event)
        return str(found[0][0]) if found else None

    def receipts(self) -> list[ReceiptRow]:
        """All receipts in the order in which they were issued."""
        return [self._receipt(*row) for row in self.rows("SELECT * FROM receipts ORDER BY seq")]

    def receipt(self, digest: str) -> ReceiptRow | None:
        """The receipt of this digest, if this ledger lists it."""
        found = self.rows("SELECT * FROM receipts WHERE receipt_digest = ?", digest)
        return self._receipt(*found[0]) if found else None

    def receipt_of(self, request_id: str) -> Sha256:
        """Digest of the receipt that a request was given.

        Raises:
            LedgerError: It has none.
        """
        found = self.rows("SELECT receipt_digest FROM receipts WHERE request_id = ?", request_id)
        if not found:
            raise LedgerError(f"ledger {self.path}: no receipt of request {request_id!r}")
        return self._digest(found[0][0])

    def current_runs(self) -> set[str]:
        """Names of the attempts that have led to the current receipt."""
        query = """SELECT s.run FROM current c JOIN receipts r ON r.receipt_digest = c.digest
            JOIN steps s ON s.request_id = r.request_id WHERE c.name = ? AND s.step = ?"""
        return {run for (run,) in self.rows(query, Pointer.RECEIPT, Step.RECEIPTED)}

    def report_of(self, receipt: Sha256) -> Sha256 | None:
        """Digest of the report that a receipt rests on."""
        return self._result_of(receipt, Step.VERIFIED, "report")

    def page_of(self, receipt: Sha256) -> Sha256 | None:
        """Digest of the page that was made with a receipt; None in projects that are older than the page."""
        return self._result_of(receipt, Step.RECEIPTED, "page")

    def papers_of(self, receipt: Sha256) -> dict[str, Sha256]:
        """Digests of what was written with a receipt for others, by the name of the file."""
        found = self._detail_of(receipt, Step.RECEIPTED).get("papers") or {}
        return {name: self._digest(digest) for name, digest in found.items()}

    def release_of(self, receipt: Sha256) -> Sha256 | None:
        """Digest of the release that a receipt is about."""
        return self._result_of(receipt, Step.EXPORTED, "release")

    def _result_of(self, receipt: Sha256, step: Step, name: str) -> Sha256 | None:
        """What the last run of a step has stored, of the request that was given a receipt."""
        digest = self._detail_of(receipt, step).get(name)
        return None if digest is None else self._digest(digest)

    def _detail_of(self, receipt: Sha256, step: Step) -> Mapping[str, Any]:
        """What the last run of a step has to say, of the request that was given a receipt."""
        query = """SELECT detail FROM steps JOIN receipts USING (request_id) WHERE receipt_digest = ?
            AND step = ? AND status = ? ORDER BY steps.finished DESC LIMIT 1"""
        found = self.rows(query, receipt, step, Status.DONE)
        return dict(self._parsed(found[0][0])) if found else {}

    def is_open_attempt(self, prefix: str) -> bool:
        """Whether an attempt with these first 16 characters is unfinished, of a request without a receipt."""
        query = """SELECT 1 FROM steps WHERE substr(run, 1, 16) = ? AND status <> ? AND request_id NOT IN
            (SELECT request_id FROM receipts WHERE request_id IS NOT NULL) LIMIT 1"""
        return bool(self.rows(query, prefix, Status.DONE))

    def _receipt(self, seq: Any, request_id: Any, digest: Any, previous: Any, issued: Any) -> ReceiptRow:
        before = None if previous is None else self._digest(previous)
        return ReceiptRow(seq, request_id, self._digest(digest), before, issued)

    def _digest(self, text: object) -> Sha256:
        """What names an object, as the ledger says it."""
        return sha256(text, f"ledger {self.path}: digest", LedgerError)

    def _point(self, name: Pointer, digest: str | None) -> None:
        if digest is not None and digest != self.current(name):
            self._db.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (name, digest))
            self.append("current", name, digest=digest)
