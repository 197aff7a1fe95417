"""Whose the samples are: lists of subjects, the normal form of a name, and the pseudonym made of it.

A name is typed by people, so what nobody sees must not make two people of one: blanks around it are
dropped, and no-break spaces count as spaces. Letters count as written: "A@x.org" and "a@x.org" may be
two people, so names that differ in case or spacing only are reported, by line, and never joined.
"""

import csv
import hmac
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from qmu_edge.data.columns import MAX_NAME
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.json import INVISIBLE

MAX_SUBJECTS_BYTES: Final = 256 << 20
_COLUMNS: Final = ("sample", "subject")
_DELIMITERS: Final = ",;\t"
_NO_BREAK: Final = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f", " "))
_LONGEST_HEADER: Final = 1 << 16
_MOST_SHOWN: Final = 10


def normal(name: str) -> str:
    r"""A name as it is compared: NFC, spaces for no-break spaces, none around it.

    >>> normal(" Jose\u0301\u00a0Rey ")
    'José Rey'
    """
    return unicodedata.normalize("NFC", name).translate(_NO_BREAK).strip()


def pseudonym(key: bytes, subject_id: str) -> Sha256:
    """HMAC-SHA256 of the normal form of a subject id: the same person, not to be guessed without the key.

    >>> pseudonym(b"key", "ana")[:8], pseudonym(b"other", "ana")[:8], pseudonym(b"key", " ana")[:8]
    ('0c8de79c', 'c13bc323', '0c8de79c')
    """
    return _keyed(key, normal(subject_id))


def pseudonyms(key: bytes, subject_id: str) -> tuple[Sha256, ...]:
    """The pseudonyms under which a person may be in an index, today's first.

    Indices made before names had a normal form know "ana" and "ana " as two people; whoever asks for one
    means both.
    """
    name = normal(subject_id)
    blanks = ("", " ", "\u00a0")
    forms = [
        before + inner + after
        for inner in {name: 0, name.replace(" ", "\u00a0"): 0}
        for before, after in product(blanks, blanks)
    ]
    written = unicodedata.normalize("NFC", subject_id)
    return tuple(_keyed(key, form) for form in dict.fromkeys([*forms, written]))


def in_other_letters(key: bytes, subject_id: str) -> tuple[Sha256, ...]:
    """Pseudonyms of names that differ from this one in case or spacing only: those that can be guessed."""
    name = normal(subject_id)
    spaced = (name, " ".join(name.split()), "".join(name.split()))
    forms = {f for s in spaced for f in (s, s.lower(), s.upper(), s.title(), s.capitalize(), s.casefold())}
    return tuple(_keyed(key, form) for form in sorted(forms - {name}))


def _keyed(key: bytes, name: str) -> Sha256:
    return Sha256(hmac.digest(key, b"qmu-edge subject v1\0" + name.encode(), "sha256").hex())


@dataclass(frozen=True, slots=True)
class SubjectList:
    """What a list of subjects says.

    Attributes:
        subjects: The names of the people in each sample (n), none when they are unknown.
        unused: Names of columns that were not used.
        alike: For each name of several that differ in case or spacing only, the line where it first stands.
    """

    subjects: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...] = ()
    alike: tuple[tuple[int, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What whoever gave the list should know about it; names nobody."""
        return {
            "pictures_of_several_people": sum(len(people) > 1 for people in self.subjects),
            "pictures_of_unknown_people": sum(not people for people in self.subjects),
            "unused_columns": list(self.unused),
            "names_that_differ_in_case_or_spacing_only": len(self.alike),
            "first_of_them_in_lines": [list(lines) for lines in self.alike[:_MOST_SHOWN]],
        }


def read_subjects(path: Path, sample_ids: Sequence[str]) -> SubjectList:
    """The people in each sample, from a table with the columns `sample` and `subject`.

    Args:
        path: CSV in UTF-8, or in UTF-16 with a byte order mark, separated by commas, semicolons or tabs, at
            most 256 MiB. A sample has a line for each person in it. A subject that is empty, or whose sample
            is absent, is unknown.
        sample_ids: The ids of the dataset (n).

    Returns:
        Names in their normal form: give them to `pseudonym` before they are stored.

    Raises:
        ConfigError: The file cannot be read, or a line is malformed, names a sample that is not in the
            dataset, or has no subject for a sample that has one in another line. No message repeats a
            subject.
    """
    known = set(sample_ids)
    people: defaultdict[str, dict[str, None]] = defaultdict(dict)
    spellings: defaultdict[str, dict[str, int]] = defaultdict(dict)
    with _readable(path):
        form = _form(path)
        for line, sample, subject in _rows(path, form):
            name = sample if sample in known else sample.strip()
            if name not in known:
                raise ConfigError(f"{path}, line {line}: sample {sample[:80]!r} is not in the dataset")
            people[name][subject] = None
            if "" in people[name] and len(people[name]) > 1:
                raise ConfigError(
                    f"{path}, line {line}: sample {name[:80]!r} has a subject in one line and none in another"
                )
            spellings[_folded(subject)].setdefault(subject, line)
    return SubjectList(
        tuple(tuple(filter(None, people.get(sample, ()))) for sample in sample_ids),
        tuple(name[:80] for name in form.names if name and name not in _COLUMNS),
        tuple(tuple(lines.values()) for lines in spellings.values() if len(lines) > 1),
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not {error.encoding.upper()} at byte {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _folded(name: str) -> str:
    """What names that differ in case or spacing only have in common."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


@dataclass(frozen=True, slots=True)
class _Form:
    """How a table is written: its encoding, what separates its columns, and their names in small letters."""

    encoding: str
    delimiter: str
    names: list[str]


def _form(path: Path) -> _Form:
    """Read the header; a bad one is not shown: it may be a row of data."""
    size = path.stat().st_size
    if not path.is_file() or size > MAX_SUBJECTS_BYTES:
        raise ConfigError(f"{path}: found {size} bytes, allowed a file of {MAX_SUBJECTS_BYTES}")
    with path.open("rb") as file:
        marked = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
    encoding = "utf-16" if marked else "utf-8-sig"  # spreadsheets write a mark
    with path.open(encoding=encoding, newline="") as text:
        line = text.readline(_LONGEST_HEADER)
    for delimiter in _DELIMITERS:
        names = [name.strip().casefold() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if all(names.count(name) == 1 for name in _COLUMNS):
            return _Form(encoding, delimiter, names)
    wide = ", in UTF-8 or in UTF-16 with a byte order mark" if "\0" in line else ""
    raise ConfigError(
        f"{path}: the first line must be the header sample,subject{wide}; allowed are ; and tabs as well, "
        "and further columns, each of the two once"
    )


def _rows(path: Path, form: _Form) -> Iterator[tuple[int, str, str]]:
    """Line number, sample (NFC) and subject (normal form) of each row, each row checked by itself."""
    columns = [form.names.index(name) for name in _COLUMNS]
    with path.open(encoding=form.encoding, newline="") as file:
        rows = csv.reader(file, strict=True, delimiter=form.delimiter)
        next(rows)
        try:
            for row in rows:
                if not any(map(str.strip, row)):
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(form.names):
                    raise ConfigError(f"{where}: {len(row)} fields, allowed {len(form.names)}")
                sample, subject = (row[column] for column in columns)
                yield rows.line_num, unicodedata.normalize("NFC", sample), _subject(subject, where)
        except csv.Error as error:
            raise ConfigError(f"{path}, line {rows.line_num}: {error}") from None


def _subject(text: str, where: str) -> str:
    name = normal(text)
    if INVISIBLE.search(name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"{where}: the subject has control characters, invisible ones or more than {MAX_NAME} "
            "characters, so no request could name it"
        )
    return name
