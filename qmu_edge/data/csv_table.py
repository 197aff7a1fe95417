"""Tables that people write: CSV in the forms that spreadsheets save it in, read row by row.

UTF-8, or UTF-16 with a byte order mark; separated by commas, semicolons or tabs; the header in any letters
and any order, with columns that nobody asks for.
"""

import csv
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qmu_edge.errors import ConfigError

MAX_TABLE_BYTES: Final = 256 << 20
_DELIMITERS: Final = ",;\t"
_LONGEST_HEADER: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class CsvTable:
    """How a table is written.

    Attributes:
        path: The file.
        encoding: Of its text.
        delimiter: What separates its columns.
        names: Of the columns, in small letters.
    """

    path: Path
    encoding: str
    delimiter: str
    names: list[str]

    @classmethod
    def of(cls, path: Path, required: Sequence[str]) -> "CsvTable":
        """Read the header; a bad one is not shown: it may be a row of data.

        Args:
            path: At most 256 MiB.
            required: Columns that it must have, each once.

        Raises:
            ConfigError: It cannot be read, is larger, or has no such header.
        """
        with _readable(path):
            size = path.stat().st_size
            if not path.is_file() or size > MAX_TABLE_BYTES:
                raise ConfigError(f"{path}: found {size} bytes, allowed a file of {MAX_TABLE_BYTES}")
            with path.open("rb") as file:
                marked = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
            encoding = "utf-16" if marked else "utf-8-sig"  # spreadsheets write a mark
            with path.open(encoding=encoding, newline="") as text:
                line = text.readline(_LONGEST_HEADER)
        for delimiter in _DELIMITERS:
            names = [name.strip().casefold() for name in next(csv.reader([line], delimiter=delimiter), [])]
            if all(names.count(name) == 1 for name in required):
                return cls(path, encoding, delimiter, names)
        wide = ", in UTF-8 or in UTF-16 with a byte order mark" if "\0" in line else ""
        raise ConfigError(
            f"{path}: the first line must be the header {','.join(required)}{wide}; allowed are ; and tabs "
            "as well, and further columns, each of these once"
        )

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Line number and the fields of `columns` of each row that is not empty; "" for a column it has not.

        Raises:
            ConfigError: A row has another number of fields, or the text is not what it seemed.
        """
        places = [self.names.index(name) if name in self.names else None for name in columns]
        with _readable(self.path), self.path.open(encoding=self.encoding, newline="") as file:
            rows = csv.reader(file, strict=True, delimiter=self.delimiter)
            try:
                next(rows, None)  # the header: read by itself before
                for row in rows:
                    if not any(map(str.strip, row)):
                        continue
                    if len(row) != len(self.names):
                        where = f"{self.path}, line {rows.line_num}"
                        raise ConfigError(f"{where}: {len(row)} fields, allowed {len(self.names)}")
                    yield rows.line_num, ["" if place is None else row[place] for place in places]
            except csv.Error as error:
                raise ConfigError(f"{self.path}, line {rows.line_num}: {error}") from None

    def unused(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Names of the columns but these."""
        return tuple(name[:80] for name in self.names if name and name not in columns)


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
