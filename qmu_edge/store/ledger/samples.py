"""The part of the ledger that holds the sample index: written once, read column by column.

A dataset may have a million samples. `sample_count` and `has_samples` do not read them, and
`read_samples` never holds them all as Python objects.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.canonical import rows_digest
from qmu_edge.io.digest import salted
from qmu_edge.store.ledger.chain import ChainedFile

SALT: Final = "salt of subjects"  # a key of `meta`
_SALT: Final = f"SELECT value FROM meta WHERE key = '{SALT}'"


class SampleLedger(ChainedFile):
    """The sample index of an open ledger.

    What the chain says of subjects is salted, and a purge renews the salt: otherwise an event from before
    could confirm a guess at whose samples the emptied ones were. Ledgers of version 1 have none until then.
    """

    SCHEMA: ClassVar[tuple[str, ...]] = (
        "CREATE TABLE classes (code INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        """CREATE TABLE samples (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL, label INTEGER NOT NULL, split INTEGER NOT NULL,
            subject TEXT NOT NULL)""",
    )
    FACTS: ClassVar[Mapping[str, str]] = {
        "classes": "SELECT 0 AS key, code, name FROM classes",
        "samples": f"""SELECT 0 AS key, position, id, digest, label, split,
            subject || coalesce(({_SALT}), '') AS subject FROM samples""",
    }

    def write_samples(self, index: SampleIndex) -> None:
        """Record the sample index, once; the same index again changes nothing.

        Raises:
            LedgerError: Another index is recorded already.
        """
        classes = list(enumerate(index.class_names))
        if self.has_samples():
            for what, rows in (("samples", _rows(index, self._salt())), ("classes", classes)):
                if rows_digest((0, *row) for row in rows) != self.fact(what, 0):
                    raise LedgerError(f"ledger {self.path}: holds an index with other {what}")
            return
        with self.change() as db:
            self.renew_salt()
            db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", _rows(index))
            db.executemany("INSERT INTO classes VALUES (?, ?)", classes)
            self.append_samples()
            self.append("classes", 0, count=len(classes))

    def read_samples(self) -> SampleIndex:
        """The sample index as it was written: compared with what the chain says of it.

        Raises:
            LedgerError: None has been written, or it is damaged or altered.
        """
        if not self.has_samples():
            raise LedgerError(f"ledger {self.path}: no sample index has been written")
        index = self._read()
        stated = "json_extract(body, '$.split'), json_extract(body, '$.subjects')"
        last = self.rows(f"SELECT {stated} FROM events WHERE what = 'samples' ORDER BY seq DESC LIMIT 1")
        if last != [_digests(index, self._salt())]:
            raise LedgerError(f"ledger {self.path}: a sample index other than the one that was registered")
        return index

    def append_samples(self) -> None:
        """Append the event that vouches for the samples as they now are; inside `change` only."""
        index = self._read()
        split, subjects = _digests(index, self._salt())
        self.append("samples", 0, count=len(index.ids), split=split, subjects=subjects)

    def set_splits(self, splits: NDArray[np.int8]) -> None:
        """Let the samples have other splits (n,), before any request is received; in order of the index."""
        with self.change() as db:
            pairs = ((split, position) for position, split in enumerate(splits.tolist()))
            db.executemany("UPDATE samples SET split = ? WHERE position = ?", pairs)
            self.append_samples()

    def renew_salt(self) -> None:
        """Forget the salt of subjects; inside `change`, and `append_samples` must follow."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SALT, f'"{secrets.token_hex(32)}"'))
        self._db.execute(f"PRAGMA user_version = {self.VERSION}")
        self.append("meta", SALT)

    def _salt(self) -> str:
        found = self.rows(_SALT)
        return str(found[0][0]) if found else ""

    def _read(self) -> SampleIndex:
        try:
            return SampleIndex.of(
                ids=self._column("id"),
                digests=self._column("digest"),
                labels=np.fromiter(self._column("label"), dtype=np.int64),
                splits=np.fromiter(self._column("split"), dtype=np.int8),
                subjects=self._column("subject"),
                class_names=[name for (name,) in self.rows("SELECT name FROM classes ORDER BY code")],
            )
        except (ConfigError, ValueError, TypeError, OverflowError) as error:
            raise LedgerError(f"ledger {self.path}: a damaged sample index: {error}") from error

    def has_samples(self) -> bool:
        """Whether a sample index has been written."""
        return bool(self.rows("SELECT 1 FROM samples LIMIT 1"))

    def sample_count(self) -> int:
        """How many samples the index has."""
        ((count,),) = self.rows("SELECT count(*) FROM samples")
        return int(count)

    def _column(self, name: str) -> Iterator[Any]:
        query = f"SELECT {name} FROM samples ORDER BY position"
        with self._plainly(), closing(self._db.execute(query)) as rows:
            yield from (value for (value,) in rows)


def _digests(index: SampleIndex, salt: str) -> tuple[str, str]:
    return index.digest(), salted(index.subjects_digest(), salt)


def _rows(index: SampleIndex, salt: str = "") -> Iterator[tuple[Any, ...]]:
    numbers = (index.labels.tolist(), index.splits.tolist())
    subjects = (subject + salt for subject in index.subject_texts())
    rows = zip(index.ids, index.digests, *numbers, subjects, strict=True)
    return ((position, *row) for position, row in enumerate(rows))
