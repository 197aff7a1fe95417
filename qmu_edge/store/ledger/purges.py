"""What was removed from a store for good, as rows of the ledger.

Contract. The intent to remove a thing is written down before it is touched, and the same transaction takes
back every note that says where an earlier result lies, so that nothing leads to what may be missing. Whoever
finds a removal "started" after a kill does it again: to remove what is missing changes nothing.

A thing is known by its kind and its name: a digest, a file's name made of digests, or the number of a
request. No sample and no person is named.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from qmu_edge.errors import LedgerError
from qmu_edge.io.names import file_name
from qmu_edge.store.ledger.chain import now
from qmu_edge.store.ledger.requests import REQUEST_KEY
from qmu_edge.store.ledger.samples import SampleLedger
from qmu_edge.store.ledger.states import RemovalStatus

IMAGES: Final = "decoded images"
PSEUDONYMS: Final = "subject pseudonyms"
FORGOTTEN: Final = "forgotten"  # name of the images of all requests that are purged whole
REMOVALS: Final = """CREATE TABLE removals (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,
    items INTEGER NOT NULL, bytes INTEGER NOT NULL, since TEXT NOT NULL, reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('started', 'done', 'void')), started TEXT NOT NULL,
    finished TEXT)"""
REMOVAL: Final = "SELECT seq AS key, * FROM removals"


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that was removed, or is about to be.

    Attributes:
        seq: Its number.
        kind: What it is, in words.
        name: Its digest, file name or request number.
        items: How many things it stands for: 1, or the images or rows of a request.
        bytes: Its size.
        since: When it was superseded.
        reason: Why it goes.
        status: How far the removal is.
        started, finished: When.
    """

    seq: int
    kind: str
    name: str
    items: int
    bytes: int
    since: str
    reason: str
    status: RemovalStatus
    started: str
    finished: str | None


class RemovalLedger(SampleLedger):
    """The part of the ledger that speaks of removals."""

    def start_removals(
        self, things: Iterable[tuple[str, str, int, int, str]], reason: str, stale_notes: Iterable[str]
    ) -> None:
        """Write down what is about to be removed, all of it at once.

        Args:
            things: kind, name, items, bytes and since of each.
            reason: Why they go.
            stale_notes: Keys of `meta` that lead to one of them; they go at once.
        """
        with self.change() as db:
            for thing in things:
                cursor = db.execute(
                    "INSERT INTO removals (kind, name, items, bytes, since, reason, status, started)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*thing, reason, RemovalStatus.STARTED, now()),
                )
                self._append_removal(cursor.lastrowid or 0)
            for key in stale_notes:
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
                self.append("meta", key)

    def end_removals(self, removals: Collection[Removal], status: RemovalStatus) -> None:
        """Say what became of started removals; pseudonyms are removed right here."""
        with self.change() as db:
            for removal in removals:
                if removal.kind == PSEUDONYMS and status is RemovalStatus.DONE:
                    db.execute(_NO_SUBJECT, (removal.name,))
                    self.renew_salt()
                db.execute(
                    "UPDATE removals SET status = ?, finished = ? WHERE seq = ?", (status, now(), removal.seq)
                )
                self._append_removal(removal.seq)
            if status is RemovalStatus.DONE and any(r.kind == PSEUDONYMS for r in removals):
                self.append_samples()

    def forget(self, requests: Collection[int]) -> None:
        """Let nothing lead from requests, by number, to the samples that they barred and whom they named.

        The tombstones stay, without the request and its moment, in the order of their names; the key of the
        digest of its document goes.
        """
        gone = [(seq, f"{REQUEST_KEY}:{seq}") for seq in requests]
        with self.change() as db:
            barred = [seq for seq, _ in gone if db.execute(_UNLINK, (seq,)).rowcount]
            for _, key in gone:
                if db.execute("DELETE FROM meta WHERE key = ?", (key,)).rowcount:
                    self.append("meta", key)
            for seq in barred:
                self.append("tombstones", seq, count=0)
            if barred:
                stones = self.rows("SELECT * FROM tombstones WHERE request_id IS NULL ORDER BY 1, 2")
                db.execute("DELETE FROM tombstones WHERE request_id IS NULL")
                db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?)", stones)
                self.append("carried", 0, count=0)

    def remembered(self) -> set[int]:
        """Numbers of the requests that `forget` would change."""
        query = """SELECT seq FROM requests WHERE request_id IN (SELECT request_id FROM tombstones)
            UNION SELECT CAST(substr(key, ?) AS INTEGER) FROM meta WHERE key LIKE ?"""
        return {seq for (seq,) in self.rows(query, len(REQUEST_KEY) + 2, f"{REQUEST_KEY}:%")}

    def requested_since(self, note: str) -> bool:
        """Whether anything has happened to a request since a key of `meta` was last written."""
        query = """SELECT coalesce(max(seq), 0) FROM events
            WHERE what = ? AND (what = 'request' OR json_extract(body, '$.key') = ?)"""
        (((requests,),), ((noted,),)) = (self.rows(query, what, note) for what in ("request", "meta"))
        return bool(requests > noted)

    def removals(self) -> list[Removal]:
        """Everything that was removed or is about to be, in order."""
        rows = self.rows("SELECT * FROM removals ORDER BY seq")
        return [self._removal(*row) for row in rows]

    def removed(self, name: str) -> bool:
        """Whether what has this name was removed on purpose, or is about to be."""
        return bool(self.rows("SELECT 1 FROM removals WHERE name = ? AND status <> 'void'", name))

    def removed_names(self) -> set[str]:
        """Names of all that was removed on purpose, or is about to be: their absence is no damage."""
        return {name for (name,) in self.rows("SELECT name FROM removals WHERE status <> 'void'")}

    def erased_images(self) -> dict[int, RemovalStatus]:
        """Positions of the samples whose images were erased ("done") or may be half erased ("started")."""
        found = {position: RemovalStatus(status) for position, status in self.rows(_ERASED, IMAGES)}
        return found | dict.fromkeys(self.positions(FORGOTTEN), RemovalStatus.DONE)

    def erasable(self) -> dict[str, list[tuple[int, bool]]]:
        """Deleted samples of each request id: position, and whether a pseudonym is still there."""
        found: dict[str, list[tuple[int, bool]]] = {}
        for request_id, position, named in self.rows(_ERASABLE):
            found.setdefault(request_id, []).append((position, bool(named)))
        return found

    def positions(self, name: str) -> list[int]:
        """Positions of the deleted samples of "request-3", or of all requests that are forgotten."""
        if name == FORGOTTEN:
            return [position for (position,) in self.rows(_UNLINKED)]
        return [position for (position,) in self.rows(_POSITIONS, int(name.removeprefix("request-")))]

    def forget_deleted_pages(self) -> bool:
        """Bring the write-ahead log into the file and empty it, so that it keeps no older rows.

        Returns:
            False when somebody is reading: the log stays as it is.
        """
        ((busy, _, _),) = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy

    def _removal(self, *row: Any) -> Removal:
        values = dict(zip((f.name for f in fields(Removal)), row, strict=True))
        found = Removal(**{**values, "status": RemovalStatus(values["status"])})
        if found.status is RemovalStatus.STARTED:  # else nothing is removed by this name any more
            file_name(found.name, f"ledger {self.path}: removal {found.seq}", LedgerError)
        return found

    def _append_removal(self, seq: int) -> None:
        ((kind, name, items, size, reason, status),) = self.rows(
            "SELECT kind, name, items, bytes, reason, status FROM removals WHERE seq = ?", seq
        )
        self.append(
            "removal", seq, kind=kind, name=name, items=items, bytes=size, reason=reason, status=status
        )


# A request that was erased twice (a kill, a cache put back from a backup) counts as its last removal says.
_ERASED = """SELECT s.position, p.status FROM removals p
    JOIN requests r ON p.name = 'request-' || r.seq
    JOIN tombstones t ON t.request_id = r.request_id
    JOIN samples s ON s.id = t.sample_id
    WHERE p.kind = ? AND p.status <> 'void' ORDER BY p.seq"""
_ERASABLE = """SELECT t.request_id, s.position, s.subject <> '' FROM tombstones t
    JOIN samples s ON s.id = t.sample_id WHERE t.request_id IS NOT NULL ORDER BY s.position"""
_UNLINK = """UPDATE tombstones SET request_id = NULL, since = ''
    WHERE request_id = (SELECT request_id FROM requests WHERE seq = ?)"""
# Of this project: what an earlier one has deleted is in no index of a later one.
_UNLINKED = """SELECT s.position FROM tombstones t
    JOIN samples s ON s.id = t.sample_id AND s.digest = t.digest
    WHERE t.request_id IS NULL ORDER BY s.position"""
_POSITIONS = """SELECT s.position FROM requests r JOIN tombstones t ON t.request_id = r.request_id
    JOIN samples s ON s.id = t.sample_id WHERE r.seq = ? ORDER BY s.position"""
_NO_SUBJECT = """UPDATE samples SET subject = '' WHERE id IN (SELECT t.sample_id FROM tombstones t
    JOIN requests r ON r.request_id = t.request_id WHERE 'request-' || r.seq = ?)"""
