"""The protobuf wire format, read strictly: what a schema does not name is an error, not ignored.

Ordinary protobuf readers skip unknown fields and merge repeated ones. Both would let a model file
carry bytes that a gate never sees, so here an unknown field, a wrong wire type, or a second value
of a singular field ends the reading. Nothing is copied: values are views into the file's bytes.

Source: protobuf encoding specification, protobuf.dev/programming-guides/encoding.
Differs: no groups, no unknown fields, no merging of singular fields.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError, IntegrityError

Schema = Mapping[int, tuple[str, str]]
"""Field number -> (name, kind); kind is int, bytes, text or float, with a star when repeated."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES: Mapping[str, tuple[int, ...]] = {
    "int": (_VARINT,),
    "int*": (_VARINT, _BYTES),
    "bytes": (_BYTES,),
    "bytes*": (_BYTES,),
    "text": (_BYTES,),
    "text*": (_BYTES,),
    "float": (_FIXED32,),
    "float*": (_FIXED32, _BYTES),
}
MAX_TEXT_BYTES = 1 << 20
MAX_FIELDS = 250_000  # a thousand operators have about 40,000
_CHUNK_BYTES = 1 << 20
_LIST_BYTES = 1 << 19


@dataclass(slots=True)
class Budget:
    """How many more fields one file may have; keeps tiny messages from filling the memory."""

    fields: int = MAX_FIELDS

    def spend(self) -> None:
        """Count one field; IntegrityError when there were too many."""
        self.fields -= 1
        if self.fields < 0:
            raise IntegrityError(f"protobuf: more than {MAX_FIELDS} fields in one file")


@dataclass(frozen=True, slots=True)
class Message:
    """The values of one message by field name; absent fields read as empty."""

    what: str
    ints: dict[str, list[int]] = field(default_factory=dict)
    blobs: dict[str, list[memoryview]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        """Tell whether the field occurs."""
        return name in self.ints or name in self.blobs

    def integer(self, name: str, default: int = 0) -> int:
        """Read a singular int64."""
        return self.ints.get(name, [default])[0]

    def integers(self, name: str) -> tuple[int, ...]:
        """Read a repeated int64, packed or not."""
        self._limit(name)
        packed = (int(v) for b in self.blobs.get(name, []) for c in varints(b) for v in c)
        return (*self.ints.get(name, []), *packed)

    def floats(self, name: str) -> tuple[float, ...]:
        """Read float32 values, singular, repeated or packed."""
        self._limit(name)
        joined = b"".join(self.blobs.get(name, []))
        if len(joined) % 4:
            raise IntegrityError(f"{self.what}: {name} has {len(joined)} bytes, no multiple of 4")
        return tuple(np.frombuffer(joined, dtype="<f4").tolist())

    def _limit(self, name: str) -> None:
        # a packed byte becomes a Python number many times its size
        if (size := sum(map(len, self.blobs.get(name, [])))) > _LIST_BYTES:
            raise IntegrityError(f"{self.what}: {name} has {size} bytes, allowed {_LIST_BYTES}")

    def blob(self, name: str) -> memoryview:
        """Read a singular length-delimited value; empty when absent."""
        return self.blobs.get(name, [memoryview(b"")])[0]

    def text(self, name: str, limit: int = 1024) -> str:
        """Read a singular UTF-8 string of at most `limit` bytes; empty when absent."""
        return _text(self.blob(name), f"{self.what}: {name}", limit)

    def texts(self, name: str) -> tuple[str, ...]:
        """Read repeated UTF-8 strings of at most 1024 bytes each."""
        return tuple(_text(b, f"{self.what}: {name}", 1024) for b in self.blobs.get(name, []))


def parse(view: memoryview, schema: Schema, what: str, budget: Budget) -> Message:
    r"""Read one message.

    Args:
        view: Its bytes.
        schema: Every field it may have.
        what: Its name in error messages.
        budget: Shared by all messages of a file.

    Returns:
        The values, as views into `view`.

    Raises:
        IntegrityError: Truncated, no protobuf, a wrong wire type, a singular field given twice, text that is
            not UTF-8 or longer than 1 MiB.
        ExportError: A field that the schema does not name.

    >>> parse(memoryview(b"\x08\x96\x01"), {1: ("a", "int")}, "example", Budget()).integer("a")
    150
    """
    message, at = Message(what), 0
    while at < len(view):
        budget.spend()
        key, at = varint(view, at)
        if key < 8:
            raise IntegrityError(f"{what}: not protobuf (field number 0)")
        if key >> 3 not in schema:
            raise ExportError(f"{what}: unknown field {key >> 3}; its bytes could hold anything")
        name, kind = schema[key >> 3]
        if key & 7 not in _WIRE_TYPES[kind]:
            raise IntegrityError(f"{what}: {name} has wire type {key & 7}, not protobuf of ONNX")
        if name in message and not kind.endswith("*"):
            raise IntegrityError(f"{what}: {name} occurs twice")
        if key & 7 == _VARINT:
            value, at = varint(view, at)
            message.ints.setdefault(name, []).append(_signed(value))
        else:
            blob, at = _delimited(view, at, key & 7, f"{what}: {name}")
            if kind.startswith("text"):
                _text(blob, f"{what}: {name}", MAX_TEXT_BYTES)
            message.blobs.setdefault(name, []).append(blob)
    return message


def varint(view: memoryview, at: int) -> tuple[int, int]:
    r"""Read one base-128 number; return it and the offset behind it.

    >>> varint(memoryview(b"\xac\x02"), 0)  # 0x2c + 2 * 128
    (300, 2)
    """
    value = 0
    for place, byte in enumerate(view[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                raise IntegrityError("protobuf: a number of more than 64 bits")
            return value, at + place + 1
    raise IntegrityError("protobuf: truncated, or a number of more than 10 bytes")


def varints(view: memoryview) -> Iterator[NDArray[np.int64]]:
    r"""Decode packed numbers, about one mebibyte at a time so that memory stays bounded.

    Yields:
        int64 arrays (n,), in order.

    Raises:
        IntegrityError: Truncated, or a number of more than 10 bytes.

    >>> [chunk.tolist() for chunk in varints(memoryview(b"\x01\xac\x02\x7f"))]
    [[1, 300, 127]]
    """
    at = 0
    while at < len(view):
        raw = np.frombuffer(view[at : at + _CHUNK_BYTES], dtype=np.uint8)
        ends = np.flatnonzero(raw < 0x80)
        if ends.size == 0:
            raise IntegrityError("protobuf: truncated number in packed data")
        raw = raw[: ends[-1] + 1]
        starts = np.concatenate(([0], ends[:-1] + 1))
        place = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
        if place.max() > 9:
            raise IntegrityError("protobuf: a number of more than 10 bytes in packed data")
        digits = (raw & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
        yield np.bitwise_or.reduceat(digits, starts).view(np.int64)
        at += raw.size


def count_varints(view: memoryview) -> int:
    """Count packed numbers without decoding them.

    >>> count_varints(memoryview(bytes([1, 0xAC, 2, 127])))
    3
    """
    chunks = (view[at : at + _CHUNK_BYTES] for at in range(0, len(view), _CHUNK_BYTES))
    return sum(int(np.count_nonzero(np.frombuffer(c, dtype=np.uint8) < 0x80)) for c in chunks)


def _delimited(view: memoryview, at: int, wire_type: int, what: str) -> tuple[memoryview, int]:
    length = 4
    if wire_type == _BYTES:
        length, at = varint(view, at)
    if length > len(view) - at:
        raise IntegrityError(f"{what}: truncated, {length} bytes announced, {len(view) - at} left")
    return view[at : at + length], at + length


def _signed(value: int) -> int:
    """Read 64 bits as two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(view: memoryview, what: str, limit: int) -> str:
    if len(view) > limit:
        raise IntegrityError(f"{what}: text of {len(view)} bytes, allowed {limit}")
    try:
        return bytes(view).decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{what}: text is not UTF-8") from error
