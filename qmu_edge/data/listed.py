"""Images that a CSV file lists, with their labels and whom they show."""

import unicodedata
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Final

from qmu_edge.data.csv_table import CsvTable
from qmu_edge.data.folder import leads_into
from qmu_edge.data.pictures import LeftOut, Picture, in_order, not_read, split_of
from qmu_edge.data.subjects import subject_name
from qmu_edge.errors import ConfigError, few

_REQUIRED: Final = ("path", "label")
_COLUMNS: Final = ("path", "label", "split", "subject")
_MOST_NAMED: Final = 20
_MOST_SHOWN: Final = 200  # characters of each


def listed(path: Path) -> tuple[list[Picture], tuple[str, ...], dict[str, LeftOut]]:
    """The pictures of a table with the columns `path` and `label`, and perhaps `split` and `subject`.

    Paths are relative to the table's folder and stay inside. A picture of several people has a line for each.

    Raises:
        ConfigError: A line is malformed or contradicts another, or files are missing.
    """
    table, found, lines = CsvTable.of(path, _REQUIRED), dict[str, Picture](), dict[str, int]()
    people: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for line, (name, label, split, subject) in table.rows(_COLUMNS):
        where = f"{path}, line {line}"
        picture = _picture(path.parent, where, name, label, split, subject)
        known = found.setdefault(picture.id, picture)
        if (known.split, known.label) != (picture.split, picture.label):
            raise ConfigError(
                f"{where}: {name[:80]!r} has another label or split than in line {lines[picture.id]}"
            )
        if known.file != picture.file:
            raise ConfigError(f"{where}: another file, of the same name as in line {lines[picture.id]}")
        people[picture.id].update(dict.fromkeys(picture.subjects))
        lines.setdefault(picture.id, line)
    if not found:
        raise ConfigError(f"{path}: no images")
    _require_files(path, list(found.values()))
    whole = [replace(picture, subjects=tuple(people[picture.id])) for picture in found.values()]
    return whole, in_order(p.label for p in whole), not_read("columns", table.unused(_COLUMNS))


def _picture(root: Path, where: str, name: str, label: str, split: str, subject: str) -> Picture:
    below = Path(name.strip().replace("\\", "/"))  # without "./" and "//": one file has one id
    if not below.parts or below.is_absolute() or ".." in below.parts:
        raise ConfigError(f"{where}: path {name[:80]!r}: allowed are paths below the table's folder")
    sample = unicodedata.normalize("NFC", below.as_posix())
    if not (shown := unicodedata.normalize("NFC", label.strip())):
        raise ConfigError(f"{where}: no label")
    whom = subject_name(subject, where)
    return Picture(sample, split_of(split, where), shown, root / below, (whom,) if whom else ())


def _require_files(table: Path, pictures: list[Picture]) -> None:
    inside = table.parent.resolve()
    missing = [p.id for p in pictures if isinstance(p.file, Path) and not _is_there(p.file)]
    if missing:
        names = few((name[:_MOST_SHOWN] for name in missing), _MOST_NAMED)
        raise ConfigError(f"{table}: {len(missing)} of {len(pictures)} images are missing: {names}")
    for picture in pictures:
        if isinstance(picture.file, Path) and not leads_into(picture.file, inside):
            raise ConfigError(f"{picture.file}: a link that leads out of {table.parent}")


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is longer than any file's
        return False
