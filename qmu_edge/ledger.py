"""The ledger: what the objects of a store mean, and what happened to each request.

Contract. Every method that changes something is one transaction and leaves an event in the hash
chain of `qmu_edge.chain`. Work is written down before it starts (`start_step`), goes into new
objects, and becomes current in one step (`commit_release`); whoever finds a step "started" after
a kill does it again. Samples and subjects stand in `samples` and `tombstones` only, never in an
event; keep them out of a step's `detail` too.

Times are RFC 3339 text in UTC; digests are 64 lower-case hex digits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from qmu_edge.chain import canonical, now
from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.removals import REMOVAL, REMOVALS, RemovalRows
from qmu_edge.samples import SampleFile

Status = Literal["started", "done", "failed"]
Name = Literal["checkpoint", "release", "receipt"]
_ONE_STEP = "WHERE request_id = ? AND run = ? AND step = ?"


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One deletion request: its number, its document's digest and where it stands."""

    seq: int
    request_id: str
    digest: str
    form: str
    regulation: str | None
    received: str
    due: str | None
    state: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of one attempt; `finished` is None and `detail` empty while it is started."""

    seq: int
    request_id: str
    run: str
    step: str
    status: Status
    started: str
    finished: str | None
    detail: dict[str, Any]


class Ledger(RemovalRows):
    """An open ledger; `create`, `open`, `close`, `head` and `check` come from `ChainedFile`.

    Its errors do too, from every method, and the sample index from `SampleFile`. `run` is the
    digest that names one attempt at a request, or "" for the steps before a method is chosen.
    """

    APPLICATION_ID: ClassVar[int] = 0x514D5545  # "QMUE"
    VERSION: ClassVar[int] = 1
    SCHEMA: ClassVar[tuple[str, ...]] = (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        *SampleFile.SCHEMA,
        """CREATE TABLE requests (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL, form TEXT NOT NULL, regulation TEXT, received TEXT NOT NULL,
            due TEXT, state TEXT NOT NULL, outcome TEXT)""",
        """CREATE TABLE steps (seq INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL REFERENCES requests (request_id),
            run TEXT NOT NULL, step TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('started', 'done', 'failed')),
            started TEXT NOT NULL, finished TEXT, detail TEXT NOT NULL,
            UNIQUE (request_id, run, step))""",
        """CREATE TABLE tombstones (sample_id TEXT NOT NULL, digest TEXT NOT NULL,
            request_id TEXT NOT NULL REFERENCES requests (request_id), since TEXT NOT NULL,
            PRIMARY KEY (sample_id, digest))""",
        "CREATE INDEX tombstones_of_request ON tombstones (request_id)",
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
    # Requests and steps go by number: an id that somebody chose may name a person.
    FACTS: ClassVar[Mapping[str, str]] = {
        "meta": "SELECT key, value, NULL FROM meta",
        **SampleFile.FACTS,
        "request": "SELECT seq AS key, * FROM requests",
        "step": "SELECT seq AS key, * FROM steps",
        "tombstones": """SELECT r.seq AS key, t.sample_id, t.digest, t.since
            FROM requests r JOIN tombstones t ON t.request_id = r.request_id""",
        "receipt": "SELECT seq AS key, * FROM receipts",
        "key": "SELECT seq AS key, * FROM keys",
        "current": "SELECT name AS key, digest, NULL FROM current",
        "removal": REMOVAL,
    }

    def receive(
        self,
        request_id: str,
        digest: str,
        *,
        form: str,
        regulation: str | None,
        received: str,
        due: str | None,
    ) -> bool:
        """Record a request in state "received"; False when this very request is known already.

        Raises:
            RequestError: A conflict: the id is known with another digest.
        """
        with self.change() as db:
            known = self.request(request_id)
            if known is None:
                db.execute(
                    "INSERT INTO requests (request_id, digest, form, regulation, received, due,"
                    " state) VALUES (?, ?, ?, ?, ?, ?, 'received')",
                    (request_id, digest, form, regulation, received, due),
                )
                self._append_request(request_id)
            elif known.digest != digest:
                raise RequestError(
                    f"request {request_id}: conflict: digest {digest} now, {known.digest} when "
                    f"first received; one id is one document ({self.path})"
                )
        return known is None

    def request(self, request_id: str) -> RequestRow | None:
        """The request of this id, if it was received."""
        found = self._requests("WHERE request_id = ?", request_id)
        return found[0] if found else None

    def requests(self) -> list[RequestRow]:
        """All requests in the order in which they were received."""
        return self._requests("ORDER BY seq")

    def set_outcome(self, request_id: str, state: str, outcome: str | None) -> None:
        """Say where a request stands; `outcome` is None while it is open.

        Raises:
            LedgerError: No such request.
        """
        values = (state, outcome, request_id)
        with self.change() as db:
            db.execute("UPDATE requests SET state = ?, outcome = ? WHERE request_id = ?", values)
            self._append_request(request_id)

    def start_step(self, request_id: str, run: str, step: str) -> None:
        """Write down the intent before the work; again after a kill or a failure is fine.

        Raises:
            LedgerError: The step is done already, or there is no such request.
        """
        with self.change() as db:
            self._known(request_id)
            known = self.step(request_id, run, step)
            if known is not None and known.status == "done":
                raise LedgerError(f"ledger {self.path}: step {step!r} of {request_id} is done")
            db.execute(
                "INSERT INTO steps (request_id, run, step, status, started, detail)"
                " VALUES (?, ?, ?, 'started', ?, '{}') ON CONFLICT (request_id, run, step)"
                " DO UPDATE SET status = 'started', started = excluded.started,"
                " finished = NULL, detail = '{}'",
                (request_id, run, step, now()),
            )
            self._append_step(request_id, run, step)

    def finish_step(self, request_id: str, run: str, step: str, detail: Mapping[str, Any]) -> None:
        """Mark a started step as done; with the same detail again it changes nothing.

        `detail` is what later steps need: JSON values, no NaN, no sample and no person.

        Raises:
            LedgerError: The step is not started, done with another detail, or not JSON.
        """
        self._end_step(request_id, run, step, "done", detail)

    def fail_step(self, request_id: str, run: str, step: str, reason: str) -> None:
        """Mark a started step as failed, detail {"reason": ...}; `start_step` may try it again.

        Raises:
            LedgerError: The step is not started.
        """
        self._end_step(request_id, run, step, "failed", {"reason": reason})

    def step(self, request_id: str, run: str, step: str) -> StepRow | None:
        """One step, if it was ever started."""
        found = self._steps(_ONE_STEP, request_id, run, step)
        return found[0] if found else None

    def steps(self, request_id: str) -> list[StepRow]:
        """All steps of a request, in the order in which they were first started."""
        return self._steps("WHERE request_id = ? ORDER BY seq", request_id)

    def add_tombstones(self, request_id: str, sample_ids: Sequence[str], digests: Sequence[str]) -> int:
        """Bar samples, by id and by content digest, for good; the ones barred already stay.

        Returns:
            How many were new.

        Raises:
            LedgerError: No such request, or not one digest per id.
        """
        if len(sample_ids) != len(digests):
            raise LedgerError(f"ledger {self.path}: {len(sample_ids)} ids, {len(digests)} digests")
        with self.change() as db:
            request, since, before = self._known(request_id), now(), db.total_changes
            db.executemany(
                "INSERT INTO tombstones VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                ((i, d, request_id, since) for i, d in zip(sample_ids, digests, strict=True)),
            )
            count = db.total_changes - before
            if count:
                self.append("tombstones", request.seq, request=request.digest, count=count)
        return count

    def tombstones(self) -> set[str]:
        """Ids of all barred samples."""
        return {sample_id for (sample_id,) in self.rows("SELECT sample_id FROM tombstones")}

    def tombstone_digests(self) -> set[str]:
        """Content digests of all barred samples."""
        return {digest for (digest,) in self.rows("SELECT digest FROM tombstones")}

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

    def _requests(self, which: str, *values: str) -> list[RequestRow]:
        return [RequestRow(*row) for row in self.rows(f"SELECT * FROM requests {which}", *values)]

    def _steps(self, which: str, *values: str) -> list[StepRow]:
        rows = self.rows(f"SELECT * FROM steps {which}", *values)
        return [StepRow(*(*row[:-1], self._parsed(row[-1]))) for row in rows]

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise LedgerError(f"ledger {self.path}: holds what is not JSON: {error}") from error

    def _known(self, request_id: str) -> RequestRow:
        row = self.request(request_id)
        if row is None:
            raise LedgerError(f"ledger {self.path}: no request {request_id!r}")
        return row

    def _end_step(
        self, request_id: str, run: str, step: str, status: Status, detail: Mapping[str, Any]
    ) -> None:
        subject = f"ledger {self.path}: step {step!r} of {request_id}"
        text = canonical(dict(detail), f"{subject}: detail").decode()
        with self.change() as db:
            known = self.step(request_id, run, step)
            if known and known.status == status == "done" and known.detail == json.loads(text):
                return
            if known is None or known.status != "started":
                found = known.status if known else "not known"
                raise LedgerError(f"{subject}: is {found}; only a started step ends as {status}")
            db.execute(
                "UPDATE steps SET status = ?, finished = ?, detail = ?"
                " WHERE request_id = ? AND run = ? AND step = ?",
                (status, now(), text, request_id, run, step),
            )
            self._append_step(request_id, run, step)

    def _point(self, name: Name, digest: str | None) -> None:
        if digest is not None and digest != self.current(name):
            self._db.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (name, digest))
            self.append("current", name, digest=digest)

    def _append_request(self, request_id: str) -> None:
        row = self._known(request_id)
        self.append("request", row.seq, request=row.digest, state=row.state)

    def _append_step(self, request_id: str, run: str, step: str) -> None:
        request = self._known(request_id).digest
        (row,) = self._steps(_ONE_STEP, request_id, run, step)
        self.append("step", row.seq, request=request, run=run, step=step, status=row.status)
