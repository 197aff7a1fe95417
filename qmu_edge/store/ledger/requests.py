"""The part of the ledger that holds deletion requests, their steps, and the samples that they have barred.

A step is written down before its work starts (`start_step`) and goes into new
objects; whoever finds a step "started" after a kill does it again. How a request may move from one
state to another is not decided here but in `qmu_edge.queue.lifecycle`.

Of a request stay its number, its id, a keyed digest of its document, its dates and the references of
who asked and who approved. The document itself, and the names in it, are never kept. Each digest has a key
of its own, in `meta` until the request is purged: with it, a guess at the document could be confirmed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, Final

from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.io.canonical import canonical
from qmu_edge.store.ledger.chain import ChainedFile, now
from qmu_edge.store.ledger.states import FULFILLED, Outcome, State, Status, Step

REQUEST_KEY: Final = "request key"  # "request key:3" is a key of `meta`
_ONE_STEP = "WHERE request_id = ? AND run = ? AND step = ?"


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One deletion request.

    Attributes:
        seq: Its number, in the order of receipt.
        digest: Keyed digest of its document.
        due, extended: When the answer is due by law, and until when that was put off.
        requested_by, approved_by: References, like a ticket.
        state: Where it stands.
        outcome: What became of it; None while nothing has.
        reason: A fixed word where the outcome needs one, else None.
    """

    seq: int
    request_id: str
    digest: str
    form: str
    regulation: str | None
    received: str
    due: str | None
    extended: str | None
    requested_by: str | None
    approved_by: str | None
    state: State
    outcome: Outcome | None
    reason: str | None

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self.state is not State.COMPLETED

    def require_fulfilled(self, to: str, has: str) -> None:
        """Refuse what has no receipt: there is nothing `to` do with it, because only what was fulfilled has.

        Raises:
            RequestError: It is open, or was closed otherwise.
        """
        if self.is_open or self.outcome not in FULFILLED:
            stands = (
                f"is open, there is nothing to {to} yet" if self.is_open else f"was closed as {self.outcome}"
            )
            raise RequestError(f"request {self.request_id}: {stands}: only what was fulfilled has {has}")


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
    detail: Mapping[str, object]


class RequestLedger(ChainedFile):
    """Requests, steps and tombstones of an open ledger.

    `run` is the digest that names one attempt at a request, or "" for the steps before a method is
    chosen.
    """

    SCHEMA: ClassVar[tuple[str, ...]] = (
        """CREATE TABLE requests (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL, form TEXT NOT NULL, regulation TEXT, received TEXT NOT NULL,
            due TEXT, extended TEXT, requested_by TEXT, approved_by TEXT,
            state TEXT NOT NULL, outcome TEXT, reason TEXT)""",
        """CREATE TABLE steps (seq INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL REFERENCES requests (request_id),
            run TEXT NOT NULL, step TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('started', 'done', 'failed')),
            started TEXT NOT NULL, finished TEXT, detail TEXT NOT NULL,
            UNIQUE (request_id, run, step))""",
        """CREATE TABLE tombstones (sample_id TEXT NOT NULL, digest TEXT NOT NULL,
            request_id TEXT REFERENCES requests (request_id), since TEXT NOT NULL,
            PRIMARY KEY (sample_id, digest))""",
        "CREATE INDEX tombstones_of_request ON tombstones (request_id)",
    )
    # Requests and steps go by number: an id that somebody chose may name a person.
    FACTS: ClassVar[Mapping[str, str]] = {
        "request": "SELECT seq AS key, * FROM requests",
        "step": "SELECT seq AS key, * FROM steps",
        "tombstones": f"""SELECT r.seq AS key, t.sample_id, t.digest, t.since || coalesce(
            (SELECT value FROM meta WHERE key = '{REQUEST_KEY}:' || r.seq), '') AS since
            FROM requests r JOIN tombstones t ON t.request_id = r.request_id""",
        "carried": """SELECT 0 AS key, sample_id, digest, since FROM tombstones
            WHERE request_id IS NULL""",
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
        requested_by: str | None = None,
        approved_by: str | None = None,
    ) -> bool:
        """Record a request in state "received"; False when this very request is known already.

        Raises:
            RequestError: A conflict: the id is known with another digest.
        """
        values = (request_id, digest, form, regulation, received, due, requested_by, approved_by)
        with self.change() as db:
            known = self.request(request_id)
            if known is None:
                db.execute(
                    "INSERT INTO requests (request_id, digest, form, regulation, received, due,"
                    " requested_by, approved_by, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, State.RECEIVED),
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

    def set_outcome(
        self, request_id: str, state: State, outcome: Outcome | None, reason: str | None = None
    ) -> None:
        """Say where a request stands; `outcome` is None while nothing has become of it.

        Raises:
            LedgerError: No such request.
        """
        self._amend(request_id, "state = ?, outcome = ?, reason = ?", state, outcome, reason)

    def extend(self, request_id: str, until: str) -> None:
        """Put the deadline of a request off.

        Raises:
            LedgerError: No such request.
        """
        self._amend(request_id, "extended = ?", until)

    def approve(self, request_id: str, by: str) -> None:
        """Record who has approved a request.

        Raises:
            LedgerError: No such request.
        """
        self._amend(request_id, "approved_by = ?", by)

    def start_step(self, request_id: str, run: str, step: str) -> None:
        """Write down the intent before the work; again after a kill or a failure is fine.

        Raises:
            LedgerError: The step is done already, or there is no such request.
        """
        with self.change() as db:
            self._known(request_id)
            known = self.step(request_id, run, step)
            if known is not None and known.status is Status.DONE:
                raise LedgerError(f"ledger {self.path}: step {step!r} of {request_id} is done")
            db.execute(
                "INSERT INTO steps (request_id, run, step, status, started, detail)"
                " VALUES (?, ?, ?, ?, ?, '{}') ON CONFLICT (request_id, run, step)"
                " DO UPDATE SET status = excluded.status, started = excluded.started,"
                " finished = NULL, detail = '{}'",
                (request_id, run, step, Status.STARTED, now()),
            )
            self._append_step(request_id, run, step)

    def finish_step(self, request_id: str, run: str, step: str, detail: Mapping[str, Any]) -> None:
        """Mark a started step as done; with the same detail again it changes nothing.

        `detail` is what later steps need: JSON values, no NaN, no sample and no person.

        Raises:
            LedgerError: The step is not started, done with another detail, or not JSON.
        """
        self._end_step(request_id, run, step, Status.DONE, detail)

    def fail_step(self, request_id: str, run: str, step: str, reason: str) -> None:
        """Mark a started step as failed, detail {"reason": ...}; `start_step` may try it again.

        Raises:
            LedgerError: The step is not started.
        """
        self._end_step(request_id, run, step, Status.FAILED, {"reason": reason})

    def step(self, request_id: str, run: str, step: str) -> StepRow | None:
        """One step, if it was ever started."""
        found = self._steps(_ONE_STEP, request_id, run, step)
        return found[0] if found else None

    def steps(self, request_id: str) -> list[StepRow]:
        """All steps of a request, in the order in which they were first started."""
        return self._steps("WHERE request_id = ? ORDER BY seq", request_id)

    def all_steps(self) -> list[StepRow]:
        """The steps of all requests, in the order in which they were first started."""
        return self._steps("ORDER BY seq")

    def open_details(self, step: Step) -> dict[str, Mapping[str, object]]:
        """Detail of a step with run "" for every open request that has it done, in order of receipt."""
        query = (
            "SELECT s.request_id, s.detail FROM steps s JOIN requests r USING (request_id)"
            " WHERE s.run = '' AND s.step = ? AND s.status = ? AND r.state != ? ORDER BY r.seq"
        )
        rows = self.rows(query, step, Status.DONE, State.COMPLETED)
        return {request_id: self._parsed(detail) for request_id, detail in rows}

    def deleting(self) -> list[int]:
        """Numbers of the requests whose samples nothing is trained on: barred, or open and looked up."""
        query = """SELECT DISTINCT r.seq FROM requests r JOIN steps s USING (request_id)
            WHERE s.run = '' AND s.status = ? AND (s.step = ? OR s.step = ? AND r.state != ?)
            ORDER BY r.seq"""
        rows = self.rows(query, Status.DONE, Step.TOMBSTONED, Step.RESOLVED, State.COMPLETED)
        return [seq for (seq,) in rows]

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

    def carry(self, stones: Collection[tuple[str, str]]) -> None:
        """Bar what an earlier project of the same data has barred, once; no request here stands for it."""
        since = now()
        with self.change() as db:
            rows = ((sample_id, digest, None, since) for sample_id, digest in sorted(stones))
            db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?)", rows)
            self.append("carried", 0, count=len(stones))

    def barred(self, *, besides: Collection[str] = ()) -> set[tuple[str, str]]:
        """Id and content digest of all barred samples; of those barred by the requests `besides`, none."""
        query = "SELECT sample_id, digest, request_id FROM tombstones"
        return {(i, d) for i, d, request_id in self.rows(query) if request_id not in besides}

    def training_images(self, *, barred: bool = False, besides: Collection[str] = ()) -> int:
        """How many training images were registered, or of these barred (not by the requests `besides`)."""
        if not barred:
            return int(self.rows("SELECT count(*) FROM samples WHERE split = 0")[0][0])
        query = (
            "SELECT t.request_id, count(DISTINCT t.sample_id) FROM tombstones t"
            " JOIN samples s ON s.id = t.sample_id WHERE s.split = 0 GROUP BY t.request_id"
        )
        return sum(count for request_id, count in self.rows(query) if request_id not in besides)

    def tombstone_count(self) -> int:
        """How many tombstones there are."""
        return int(self.rows("SELECT count(*) FROM tombstones")[0][0])

    def tombstones(self) -> set[str]:
        """Ids of all barred samples."""
        return {sample_id for (sample_id,) in self.rows("SELECT sample_id FROM tombstones")}

    def _requests(self, which: str, *values: str) -> list[RequestRow]:
        return [self._request_of(*row) for row in self.rows(f"SELECT * FROM requests {which}", *values)]

    def _request_of(self, *row: Any) -> RequestRow:
        values = dict(zip((f.name for f in fields(RequestRow)), row, strict=True))
        try:
            values["state"] = State(values["state"])
            values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
            for name in ("received", "due", "extended"):
                _require_time(values[name])
        except (ValueError, TypeError) as error:
            raise LedgerError(f"ledger {self.path}: request {values['seq']}: {error}") from error
        return RequestRow(**values)

    def _steps(self, which: str, *values: str) -> list[StepRow]:
        rows = self.rows(f"SELECT * FROM steps {which}", *values)
        return [self._step_of(*row) for row in rows]

    def _step_of(self, *row: Any) -> StepRow:
        values = dict(zip((f.name for f in fields(StepRow)), row, strict=True))
        values |= {"status": Status(values["status"]), "detail": self._parsed(values["detail"])}
        return StepRow(**values)

    def _amend(self, request_id: str, assignment: str, *values: str | None) -> None:
        with self.change() as db:
            db.execute(f"UPDATE requests SET {assignment} WHERE request_id = ?", (*values, request_id))
            self._append_request(request_id)

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
            if known and known.status is status is Status.DONE and known.detail == self._parsed(text):
                return
            if known is None or known.status is not Status.STARTED:
                found = known.status if known else "not known"
                raise LedgerError(f"{subject}: is {found}; only a started step ends as {status}")
            db.execute(
                "UPDATE steps SET status = ?, finished = ?, detail = ?"
                " WHERE request_id = ? AND run = ? AND step = ?",
                (status, now(), text, request_id, run, step),
            )
            self._append_step(request_id, run, step)

    def _append_request(self, request_id: str) -> None:
        row = self._known(request_id)
        self.append("request", row.seq, request=row.digest, state=row.state)

    def _append_step(self, request_id: str, run: str, step: str) -> None:
        request = self._known(request_id).digest
        (row,) = self._steps(_ONE_STEP, request_id, run, step)
        self.append("step", row.seq, request=request, run=run, step=step, status=row.status)


def _require_time(text: Any) -> None:
    """Raise ValueError, or TypeError, unless it is None or a moment that can be counted from."""
    if text is not None and datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
