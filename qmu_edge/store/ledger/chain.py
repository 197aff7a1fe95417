"""An SQLite file that vouches for its own rows: the ground that the ledger stands on.

Contract. `change` is one transaction: killed at any instant, the file holds the old state or the
new one. Inside it, `append` adds an event whose hash covers the event before it and a digest of
the rows just written, so `problems` notices rows that were changed behind its back. Events carry
counts, digests and fixed words only, and triggers refuse to update or delete one.

Trap: whoever can write the file can write a whole new chain. Only a `head` kept elsewhere (with
a receipt, at another party) shows that.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, TypeVar

from qmu_edge.errors import BusyError, ConfigError, IntegrityError, LedgerError
from qmu_edge.io.canonical import canonical, rows_digest
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import may_write
from qmu_edge.io.json import parse_stored_value
from qmu_edge.store.ledger.opening import address

# Not typing.Self: the tests' type checker, which sees one function at a time, refuses it.
File = TypeVar("File", bound="ChainedFile")

GENESIS: Final = "0" * 64  # what stands before the first event
_EVENTS: Final = (
    """CREATE TABLE events (seq INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL,
        body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL)""",
    """CREATE TRIGGER events_stay BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END""",
    """CREATE TRIGGER events_remain BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'an event is never deleted'); END""",
)
_PRAGMAS: Final = (
    "synchronous = FULL",  # a transaction that was reported as done survives a power cut
    "foreign_keys = ON",
    "trusted_schema = OFF",  # a crafted file must not call functions through its triggers
    "secure_delete = ON",  # what was deleted does not stay in free pages
    "cell_size_check = ON",
    "mmap_size = 0",  # the file is read, not mapped: it may be changed meanwhile
)
_ENVIRONMENT: Final = {  # SQLite's codes that say nothing against the file's content
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_NO_ROWS: Final = sha256_of(b"")  # what an event says of rows that it has seen go
_MAX_VALUE: Final = 1 << 24  # bytes of one text; the longest that is written is a step's detail


class ChainedFile:
    """An open file; close it, or use it as a context manager.

    Every method raises ConfigError when the disk is full, read-only or failing, BusyError when
    another process keeps the file locked for 5 s, and LedgerError when the file does not hold.

    Attributes:
        path: The file.
        APPLICATION_ID: 32 bits that tell our file from any other SQLite file.
        VERSION: Version of new files.
        READABLE: Versions that can be read; a file of another is refused.
        SCHEMA: Statements that make the tables.
        FACTS: What an event can vouch for: the rows of one key of a query. The key is the
            first column, and the first three columns make the order of the rows unique.
    """

    APPLICATION_ID: ClassVar[int]
    VERSION: ClassVar[int]
    READABLE: ClassVar[tuple[int, ...]]
    SCHEMA: ClassVar[tuple[str, ...]]
    FACTS: ClassVar[Mapping[str, str]]

    def __init__(self, path: Path) -> None:
        """Connect to an existing file without looking at it; use `create` or `open`."""
        self.path = path
        self._changing = False
        self._aside = ExitStack()  # where a copy lies, if one had to be made
        with self._plainly():
            # isolation_level: transactions are ours.
            self._db = sqlite3.connect(address(path, self._aside), uri=True, isolation_level=None)
        with self._closed_on_error():
            # Nothing that a file or a statement says lets the schema be edited; Python has it since 3.12.
            if set_config := getattr(self._db, "setconfig", None):
                set_config(getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), True)  # noqa: B009
            for pragma in _PRAGMAS:
                self.rows(f"PRAGMA {pragma}")
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
            if not may_write(path):  # what is written into a copy would be lost
                self.rows("PRAGMA query_only = ON")

    @classmethod
    def create(cls: type[File], path: Path) -> File:
        """Make an empty file, readable by its owner alone; one interrupted here is finished.

        Raises:
            LedgerError: The file exists already.
            ConfigError: The folder is missing or cannot be written to.
        """
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise ConfigError(f"cannot create ledger {path}: {error.strerror}") from error
        file = cls(path)
        with file._closed_on_error():
            if file.rows("SELECT 1 FROM sqlite_master"):
                raise LedgerError(f"ledger {path}: exists already")
            file.rows("PRAGMA journal_mode = WAL")
            with file.change():
                file._lay_out(file._db)
        return file

    @classmethod
    def open(cls: type[File], path: Path) -> File:
        """Open an existing file.

        Raises:
            IntegrityError: There is no such file.
            LedgerError: It is not SQLite, not ours, or of a version this code does not know.
        """
        if not path.is_file():
            raise IntegrityError(f"ledger {path}: no such file")
        file = cls(path)
        with file._closed_on_error():
            for pragma, allowed in (
                ("application_id", (cls.APPLICATION_ID,)),
                ("user_version", cls.READABLE),
            ):
                ((found,),) = file.rows(f"PRAGMA {pragma}")
                if found not in allowed:
                    known = " or ".join(map(str, allowed))
                    raise LedgerError(f"ledger {path}: {pragma} is {found}; allowed: {known}")
            for problem in file._shape():  # a trigger of a stranger would run with our next write
                raise LedgerError(f"ledger {path}: {problem}")
        return file

    def close(self) -> None:
        """Close the file; nothing is lost by not getting here."""
        self._db.close()
        self._aside.close()

    def __enter__(self: File) -> File:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        with self._plainly():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, taken back whole when anything is raised inside.

        Inside another it is a part of that one: nothing lasts until the outermost ends, so an error
        from a part must leave the whole as well.
        """
        if self._changing:  # not `in_transaction`: a change within a snapshot is a bug, and SQLite says so
            yield self._db
            return
        with self._plainly():
            self._db.execute("BEGIN IMMEDIATE")
            self._changing = True
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                self._changing = False
                # SQLite takes some failed transactions back by itself, a full disk for one.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything that is read inside is of one instant, whoever writes meanwhile."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            self.rows("ROLLBACK")

    def append(self, what: str, key: int | str, **visible: Any) -> None:
        """Append the event that vouches for a fact as it now is; inside `change` only.

        Args:
            what: A name in FACTS.
            key: Which rows of it.
            visible: JSON values that a reader of the chain may see. No sample, no person.
        """
        last = self.rows("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")
        ((seq, previous),) = last or [(0, GENESIS)]
        body = {**visible, "key": key, "rows": self.fact(what, key)}
        event = (seq + 1, now(), what, body, previous)
        row = (*event[:3], canonical(body).decode(), previous, _event_hash(*event))
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)

    def fact(self, what: str, key: int | str) -> str:
        """Digest of the rows of one key, whether an event vouches for them or not."""
        query = f"SELECT * FROM ({self.FACTS[what]}) WHERE key = ? ORDER BY 1, 2, 3"
        with self._plainly(), closing(self._db.execute(query, (key,))) as rows:
            return rows_digest(rows)

    def events(self, *whats: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Time, name and body of the events of these names, oldest first.

        Raises:
            LedgerError: A body is not JSON.
        """
        places = ", ".join("?" * len(whats))
        for at, what, text in self.rows(
            f"SELECT at, what, body FROM events WHERE what IN ({places}) ORDER BY seq", *whats
        ):
            yield at, what, self._parsed(text)

    def _parsed(self, text: Any) -> Any:
        """A JSON value that the file holds."""
        return parse_stored_value(text, f"ledger {self.path}: a value", LedgerError)

    def head(self) -> str:
        """Hash of the last event: pins everything before it."""
        last = self.rows("SELECT hash FROM events ORDER BY seq DESC LIMIT 1")
        return str(last[0][0]) if last else GENESIS

    def event_count(self) -> int:
        """How many events there are."""
        return int(self.rows("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def problems(self) -> list[str]:
        """Say what is wrong with the file, one sentence each; an empty list is health.

        Inside `snapshot` when others may write: the events and the rows must be of one instant.
        """
        found = []
        for look in (self._pages, self._shape, self._chain, self._bodies, self._facts):
            try:
                for problem in look():
                    found.append(f"ledger {self.path}: {problem}")
            except LedgerError as error:  # SQLite could not even read it
                found.append(str(error))
        return found

    def require_sound(self, *, besides: Collection[str] = ()) -> None:
        """Check the chain and the rows that it vouches for: what whoever is about to write builds on.

        Takes 40 ms for 2,000 events, and so on. `problems` looks at more, and names all of it.

        Args:
            besides: Facts that are checked whenever they are read.

        Raises:
            LedgerError: Something was changed behind the ledger's back.
        """
        for look in (self._chain(), self._facts(besides)):
            for problem in look:
                raise LedgerError(f"ledger {self.path}: {problem}; qmu-edge doctor says more")

    def _pages(self) -> Iterator[str]:
        # Not quick_check: it passes over indices, and a wrong index hides a step.
        yield from (line for (line,) in self.rows("PRAGMA integrity_check") if line != "ok")
        yield from (f"a row of {r[0]} points nowhere" for r in self.rows("PRAGMA foreign_key_check"))

    def _shape(self) -> Iterator[str]:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
            self._lay_out(model)
            # All of it: SQLite's own names begin like one that a stranger can choose for a trigger.
            shapes = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2, 3, 4"
            if model.execute(shapes).fetchall() != self.rows(shapes):
                yield "its tables or triggers are not those of this version"

    def _chain(self) -> Iterator[str]:
        previous = GENESIS
        for number, row in enumerate(self.rows("SELECT * FROM events ORDER BY seq"), start=1):
            seq, at, what, text, before, found = row
            if seq != number or before != previous:
                yield f"event {number} is missing or does not follow the one before it"
                return
            if _hash_of_text(seq, at, what, text, before) != found:
                yield f"event {number} ({what}) is altered"
                return
            previous = found

    def _bodies(self) -> Iterator[str]:
        """A body has one form: two readers must not take two things from it."""
        for seq, text in self.rows("SELECT seq, body FROM events ORDER BY seq"):
            try:
                sound = canonical(self._parsed(text)).decode() == text
            except LedgerError:
                sound = False
            if not sound:
                yield f"event {seq}: its body is not canonical JSON"
                return

    def _facts(self, besides: Collection[str] = ()) -> Iterator[str]:
        """Compare what the last event said of each key with the rows that are there."""
        said: dict[tuple[str, Any], str] = {}
        for what, text in self.rows("SELECT what, body FROM events ORDER BY seq"):
            try:
                body = self._parsed(text)
                said[what, body["key"]] = body["rows"]
            except (LedgerError, KeyError, TypeError):
                pass  # the chain is broken here, and that is said already
        said = {fact: rows for fact, rows in said.items() if fact[0] not in besides}
        found = {}
        for what, query in ((w, q) for w, q in self.FACTS.items() if w not in besides):
            query = f"SELECT * FROM ({query}) ORDER BY 1, 2, 3"
            with self._plainly(), closing(self._db.execute(query)) as rows:
                for key, group in groupby(rows, key=itemgetter(0)):
                    found[what, key] = rows_digest(group)
        for fact in sorted(said.keys() | found.keys(), key=str):
            if said.get(fact) != found.get(fact, _NO_ROWS):
                yield f"{fact[0]} {fact[1]} is not as the last event left it"

    def _lay_out(self, db: sqlite3.Connection) -> None:
        for statement in (*_EVENTS, *self.SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {self.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {self.VERSION}")

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Turn SQLite's errors into ours; its ProgrammingError is a bug and stays one."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except UnicodeDecodeError as error:  # a message that quotes a damaged schema
            raise LedgerError(f"ledger {self.path}: damaged text: {error.reason}") from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _ENVIRONMENT:
                raise ConfigError(f"ledger {self.path}: {error}; nothing was changed") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise BusyError(f"ledger {self.path}: {error} by another process") from error
            raise LedgerError(f"ledger {self.path}: {error}") from error


def now() -> str:
    """The moment in UTC, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _event_hash(seq: int, at: str, what: str, body: Any, previous: str) -> str:
    event = {"seq": seq, "at": at, "what": what, "body": body, "previous": previous}
    return sha256_of(canonical(event))


def _hash_of_text(seq: Any, at: Any, what: Any, text: Any, previous: Any) -> str:
    """The same hash from a body that is text, as the file holds it; "" when something is no text.

    It is put together, not parsed: every command that writes asks for all of them.
    """
    if not all(isinstance(part, str) for part in (at, what, text, previous)):
        return ""
    say = partial(json.dumps, ensure_ascii=False)  # for text the same as RFC 8785, and ten times as fast
    parts = f'{{"at":{say(at)},"body":{text},"previous":{say(previous)},"seq":{seq},"what":{say(what)}}}'
    return sha256_of(parts.encode("utf-8", "surrogatepass"))
