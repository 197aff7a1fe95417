"""Whose the samples are: lists of subjects, the normal form of a name, and the pseudonym made of it.

A name is typed by people, so what nobody sees must not make two people of one: blanks around it are
dropped, and no-break spaces count as spaces. Letters count as written: "A@x.org" and "a@x.org" may be
two people, so names that differ in case or spacing only are reported, by line, and never joined.
"""

import hmac
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import index
from pathlib import Path
from typing import Any, Final, TypedDict

from qmu_edge.data.columns import MAX_NAME
from qmu_edge.data.csv_table import CsvTable
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.json import INVISIBLE

_COLUMNS: Final = ("sample", "subject")
_NO_BREAK: Final = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f", " "))
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


class SubjectListJson(TypedDict):
    """What whoever gave a list of subjects should know about it; names nobody."""

    pictures_of_several_people: int
    pictures_of_unknown_people: int
    unused_columns: list[str]
    names_that_differ_in_case_or_spacing_only: int
    first_of_them_in_lines: list[list[int]]


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

    def to_json(self) -> SubjectListJson:
        """What whoever gave the list should know about it."""
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
    places: dict[str, int] = {}
    table = CsvTable.of(path, _COLUMNS)
    for line, (sample_id, text) in table.rows(_COLUMNS):
        subject, sample = subject_name(text, f"{path}, line {line}"), unicodedata.normalize("NFC", sample_id)
        name = sample if sample in known else sample.strip()
        if name not in known:
            raise ConfigError(f"{path}, line {line}: sample {sample[:80]!r} is not in the dataset")
        people[name][subject] = None
        if "" in people[name] and len(people[name]) > 1:
            raise ConfigError(
                f"{path}, line {line}: sample {name[:80]!r} has a subject in one line and none in another"
            )
        places.setdefault(subject, line)
    return SubjectList(
        tuple(tuple(filter(None, people.get(sample, ()))) for sample in sample_ids),
        table.unused(_COLUMNS),
        tuple(spelled_alike(places)),
    )


def spelled_alike(places: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Of names and where each first stands: the places of those that differ in case or spacing only.

    >>> spelled_alike({"Ana": 0, "bo": 1, "ana": 2})
    [(0, 2)]
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    for name, place in places.items():
        found[_folded(name)].append(place)
    return [tuple(of) for of in found.values() if len(of) > 1]


def _folded(name: str) -> str:
    """What names that differ in case or spacing only have in common."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def text_of(found: Any) -> str | None:
    """A text, or a whole number as text; None for anything else.

    >>> text_of("ana"), text_of(0), text_of(1.0), text_of(["ana"])
    ('ana', '0', None, None)
    """
    if isinstance(found, str | bool):
        return str(found)
    try:
        return str(index(found))
    except (TypeError, ValueError):  # no number, or one of thousands of digits
        return None


def people_in(found: Any, where: str) -> tuple[str, ...]:
    """The people whom a set names in a picture: a text, a whole number or a list of these; None for nobody.

    Raises:
        ConfigError: It is something else, which would become a name that nobody asks for.
    """
    each = found if isinstance(found, list | tuple) else [] if found is None else [found]
    names = [text_of(one) for one in each]
    if None in names:
        kind = type(each[names.index(None)]).__name__
        raise ConfigError(f"{where}: a subject of the type {kind}, allowed are text, whole numbers and lists")
    return tuple(dict.fromkeys(filter(None, (subject_name(name or "", where) for name in names))))


def subject_name(text: str, where: str) -> str:
    """The normal form of a name.

    Raises:
        ConfigError: No request could name it; `where` it stands is said, and never the name.
    """
    name = normal(text)
    if INVISIBLE.search(name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"{where}: the subject has control characters, invisible ones or more than {MAX_NAME} "
            "characters, so no request could name it"
        )
    return name
