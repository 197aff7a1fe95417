"""Images in tables of Apache Arrow: Parquet files, and datasets that Hugging Face's `datasets` has saved.

A row holds the bytes of an image (`image`, a struct with `bytes`), its `label`, and perhaps `split`,
`subject` and `id`. Rows are read a row group at a time. Needs pyarrow, the extra "parquet".

A small file may say a value once and mean it a million times (a dictionary of Parquet, runs, compression), so
values stay in their dictionary until they are asked for, there are no more rows than bytes, and texts of a
row group are bounded together.
"""

import json
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from qmu_edge.data.decoding import Encoded
from qmu_edge.data.pictures import (
    LeftOut,
    Picture,
    in_order,
    label_of,
    not_read,
    split_of,
    split_of_name,
)
from qmu_edge.data.subjects import people_in, text_of
from qmu_edge.errors import ConfigError
from qmu_edge.io.apart import apart

_SUFFIXES: Final = (".parquet", ".arrow")
_READ: Final = ("label", "split", "subject", "id")
_MOST_SHOWN: Final = 12
_MOST_GROUP: Final = 1 << 30  # bytes
_COUNT_SECONDS: Final = 600.0  # for what takes milliseconds


def tables(path: Path) -> tuple[list[Picture], tuple[str, ...], dict[str, LeftOut]]:
    """The pictures of a file, or of all such files below a folder; names of its classes, in label order.

    And what is not read: columns.

    The split of a row is in its column, or else in the name of its file or folder
    (`train-00000-of-00002.parquet`, `test/data-00000.arrow`).

    Raises:
        ConfigError: pyarrow is missing, a file is damaged, or its columns are others.
    """
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
    )
    found: list[Picture] = []
    names: tuple[str, ...] = ()
    unread: dict[str, None] = {}
    for file in files:
        table = _Table(file)
        if found and table.class_names != names:
            raise ConfigError(f"{file}: its classes are not those of {files[0]}")
        names = table.class_names
        unread |= dict.fromkeys(table.unread())
        found += table.pictures(file.relative_to(path).as_posix() if file != path else file.name)
    if not found:
        raise ConfigError(f"{path}: no images")
    return found, names or in_order(picture.label for picture in found), not_read("columns", unread)


class _Table:
    """One file. `group` reads one of its row groups, and keeps the last."""

    def __init__(self, path: Path) -> None:
        """Read the schema."""
        try:
            import pyarrow
            from pyarrow import ipc, parquet
        except ModuleNotFoundError:
            raise ConfigError(f'{path}: needs pyarrow, the extra "parquet" of qmu-edge') from None
        self.path, self._errors = path, (pyarrow.ArrowException, OSError, ValueError, struct.error)
        self._lock, self._last = threading.Lock(), (-1, "", None)
        try:
            if path.suffix == ".parquet":
                plain = parquet.ParquetFile(path)
                schema, about = plain.schema_arrow, plain.metadata
                groups = [about.row_group(i) for i in range(about.num_row_groups)]
                _require_no_more_than_bytes(about, path)
                self._sizes = [_rows(group, path) for group in groups]
                self._file: Any = parquet.ParquetFile(path, read_dictionary=_texts(plain.schema))
            else:
                mapped = pyarrow.memory_map(str(path))
                start = 8 if mapped.read(6) == b"ARROW1" else 0  # a file is a stream with a list at its end
                mapped.seek(start)
                if any(_is_compressed(m.type, m.metadata) for m in ipc.MessageReader.open_stream(mapped)):
                    raise ConfigError(f"{path}: a compressed Arrow file; allowed are plain ones, and Parquet")
                mapped.seek(start)
                self._file = ipc.open_stream(mapped).read_all().to_batches()
                schema = self._file[0].schema if self._file else pyarrow.schema([])
                for batch in self._file:
                    batch.validate(full=True)  # places in a buffer that lie would be read beyond it
                self._sizes = [len(batch) for batch in self._file]
            self._names = list(schema.names)  # names are decoded only now
            self._image = self._column_of_images(schema)
        except self._errors as error:
            raise ConfigError(f"{path}: not a table: {str(error)[:200]}") from None
        self.class_names = _class_names(path, schema)

    def pictures(self, name: str) -> Iterator[Picture]:
        """All rows; `name` is what ids begin with."""
        number, of_file = 0, split_of_name(name)
        for group in range(len(self._sizes)):
            labels, *others = (self._values(group, column) for column in _READ)
            for row, (label, split, subject, given) in enumerate(zip(labels, *others, strict=True)):
                where = f"{self.path}, row {number}"
                if given is not None and text_of(given) is None:
                    kind = type(given).__name__
                    raise ConfigError(
                        f"{where}: an id of the type {kind}, allowed are text and whole numbers"
                    )
                yield Picture(
                    text_of(given) or f"{name}/{number:06d}",
                    of_file if split in (None, "") else split_of(split, where),
                    self._label(label, where),
                    Encoded(where, partial(self._bytes, group, row)),
                    people_in(subject, where),
                )
                number += 1

    def unread(self) -> Iterator[str]:
        """Names of the columns that are not read."""
        return (name for name in self._names if name not in (*_READ, self._image))

    def _label(self, label: Any, where: str) -> str:
        name = label_of(label, where, self.class_names)
        if self.class_names and name not in self.class_names:
            raise ConfigError(f"{where}: label {name[:80]!r}, not among the classes that the file names")
        return name

    def _values(self, group: int, column: str) -> Sequence[Any]:
        if column not in self._names:
            return [None] * self._sizes[group]
        values = self._group(group, column)
        if (longest := _longest(values)) * self._sizes[group] > _MOST_GROUP:
            raise ConfigError(
                f"{self.path}: column {column}: {self._sizes[group]} rows of up to {longest} bytes, allowed "
                f"{_MOST_GROUP} together"
            )
        try:
            found: list[Any] = values.to_pylist()
        except self._errors as error:  # a time that Python has not, text that is not UTF-8
            raise ConfigError(f"{self.path}: column {column}: {str(error)[:200]}") from None
        if len(found) != self._sizes[group]:  # of a file that says otherwise in another place
            raise ConfigError(
                f"{self.path}: damaged: column {column} has {len(found)} rows, allowed {self._sizes[group]}"
            )
        return found

    def _bytes(self, group: int, row: int) -> bytes:
        value = self._group(group, self._image)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ConfigError(f"{self.path}: row {row} of group {group} holds no bytes of an image")
        return data

    def _group(self, group: int, column: str) -> Any:
        with self._lock:
            number, name, values = self._last
            if (number, name) != (group, column):
                try:
                    part = (
                        self._file.read_row_group(group, [column])
                        if self.path.suffix == ".parquet"
                        else self._file[group]
                    )
                    values = part.column(column)
                except self._errors as error:
                    raise ConfigError(f"{self.path}: damaged: {str(error)[:200]}") from None
                self._last = (group, column, values)
            return values

    def _column_of_images(self, schema: Any) -> str:
        from pyarrow import types

        found = [
            f.name for f in schema
            if (types.is_struct(f.type) and any(part.name == "bytes" for part in f.type))
            or (f.name == "image" and (types.is_binary(f.type) or types.is_large_binary(f.type)))
        ]  # fmt: skip
        if len(found) == 1 and "label" in self._names:
            return str(found[0])
        shown = ", ".join(self._names[:_MOST_SHOWN]) or "none"
        raise ConfigError(
            f"{self.path}: columns {shown}: needed are label and one of images (a struct with "
            "bytes, or binary and named image)"
        )


def _rows(group: Any, path: Path) -> int:
    """How many rows a row group has, which is read whole."""
    if group.total_byte_size > _MOST_GROUP:
        raise ConfigError(
            f"{path}: a row group of {group.total_byte_size} bytes, allowed {_MOST_GROUP}: write smaller ones"
        )
    return int(group.num_rows)


def _require_no_more_than_bytes(about: Any, path: Path) -> None:
    """Of each column that is read: one image of some bytes can be the value of any number of rows."""
    size = path.stat().st_size
    for name, count in _values_of(about, path).items():
        if count > size and name.partition(".")[0] in (*_READ, "image"):
            raise ConfigError(f"{path}: column {name[:80]}: {count} values in a file of {size} bytes")


def _values_of(about: Any, path: Path) -> dict[str, int]:
    """How many values each column of a Parquet file has, lists counted in full.

    It is told by a process of its own: pyarrow ends the process that asks this of some damaged files.

    Raises:
        ConfigError: The file is damaged.
    """

    def counts() -> bytes:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says why it ends
        return json.dumps(_counted(about)).encode()

    try:
        said = apart(counts, _COUNT_SECONDS)
    except TimeoutError:
        said = None
    if said is None:
        raise ConfigError(f"{path}: not a table: the columns of its row groups are damaged")
    return dict(json.loads(said))


def _counted(about: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group in map(about.row_group, range(about.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            counts[column.path_in_schema] += max(column.num_values, group.num_rows)
    return counts


def _texts(schema: Any) -> list[str]:
    """Columns, or parts of them, of texts and bytes."""
    parts = [schema.column(i) for i in range(len(schema))]
    return [part.path for part in parts if part.physical_type == "BYTE_ARRAY"]


def _longest(values: Any) -> int:
    """Bytes of the longest text in a column, wherever in its values it is."""
    from pyarrow import compute, types

    if hasattr(values, "chunks"):
        return max(map(_longest, values.chunks), default=0)
    kind = values.type
    if types.is_dictionary(kind):
        return _longest(values.dictionary)
    if types.is_struct(kind):
        return sum(_longest(values.field(i)) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind):
        return _longest(values.values) * int(compute.max(compute.list_value_length(values)).as_py() or 0)
    if any(test(kind) for test in (types.is_string, types.is_binary, types.is_large_string,
                                   types.is_large_binary)):  # fmt: skip
        return int(compute.max(compute.binary_length(values)).as_py() or 0)
    return 0


def _is_compressed(kind: str, metadata: Any) -> bool:
    """Whether the buffers of an Arrow message are compressed; pyarrow tells when it has unpacked them.

    Source: Arrow, format/Message.fbs; FlatBuffers, "Internals". pyarrow has verified the tables.
    """
    data = memoryview(metadata)

    def number(form: str, at: int) -> int:
        return int(struct.unpack_from(form, data, at)[0])

    def field(table: int, index: int) -> int:
        """Where a field of a table lies; 0 where it is left out."""
        names = table - number("<i", table)
        there = 4 + 2 * index < number("<H", names)
        place = number("<H", names + 4 + 2 * index) if there else 0
        return table + place if place else 0

    def below(place: int) -> int:
        return place + number("<I", place)

    if kind not in ("record batch", "dictionary"):
        return False
    batch = below(field(below(0), 2))
    if kind == "dictionary":
        batch = below(field(batch, 1))
    return bool(field(batch, 3))


def _class_names(path: Path, schema: Any) -> tuple[str, ...]:
    """Names of the labels, as `datasets` notes them in the schema; none where it has not."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = noted.get("info", {}).get("features", {}).get("label", {}).get("names", ())
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names of classes that are no text")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: its notes of classes: {error}") from None
    return tuple(names)
