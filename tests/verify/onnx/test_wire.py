"""The protobuf wire format: numbers and messages as protobuf writes them, and nothing else."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import ExportError, IntegrityError
from qmu_edge.verify.onnx.wire import Budget, Message, Schema, count_varints, parse, varint, varints

SCHEMA: Schema = {
    1: ("number", "int"),
    2: ("numbers", "int*"),
    3: ("text", "bytes"),
    4: ("texts", "bytes*"),
    5: ("floats", "float*"),
}


def read(data: bytes) -> Message:
    return parse(memoryview(data), SCHEMA, "example", Budget())


def encoded(value: int) -> bytes:
    """A number as protobuf writes it."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_numbers_are_read_alone_and_packed(values: list[int]) -> None:
    packed = b"".join(map(encoded, values))
    assert count_varints(memoryview(packed)) == len(values)
    assert [int(n) for chunk in varints(memoryview(packed)) for n in chunk] == values
    for value in values:
        assert varint(memoryview(encoded(value)), 0) == (value % (1 << 64), len(encoded(value)))
    alone = b"".join(b"\x10" + encoded(value) for value in values)
    assert read(alone).integers("numbers") == tuple(values)
    assert read(b"\x12" + encoded(len(packed)) + packed).integers("numbers") == tuple(values)


@given(st.lists(st.floats(width=32, allow_nan=False)), st.text(max_size=40))
def test_messages_of_protobuf_are_read(floats: list[float], text: str) -> None:
    message = onnx.AttributeProto(name=text, floats=floats, i=-7)
    schema: Schema = {1: ("name", "bytes"), 3: ("i", "int"), 7: ("floats", "float*")}
    found = parse(memoryview(message.SerializeToString()), schema, "attribute", Budget())
    assert (found.text("name"), found.integer("i"), found.floats("floats")) == (text, -7, tuple(floats))


def test_fields_that_are_absent_read_as_empty() -> None:
    found = read(b"")
    assert (found.integer("number"), found.integer("number", 3)) == (0, 3)
    assert (found.text("text"), found.texts("texts"), found.floats("floats")) == ("", (), ())
    assert "number" not in found and "number" in read(b"\x08\x01")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"\x00", IntegrityError, "field number 0"),
        (b"\x32\x00", ExportError, "unknown field 6"),
        (b"\x0a\x00", IntegrityError, "number has wire type 2"),
        (b"\x0b", IntegrityError, "wire type 3"),
        (b"\x08\x01\x08\x01", IntegrityError, "number occurs twice"),
        (b"\x1a\x05ab", IntegrityError, "text: truncated, 5 bytes announced, 2 left"),
        (b"\x08", IntegrityError, "truncated"),
        (b"\x08" + b"\xff" * 11, IntegrityError, "more than 10 bytes"),
        (b"\x08" + b"\xff" * 9 + b"\x02", IntegrityError, "more than 64 bits"),
        (b"\x2d\x00\x00", IntegrityError, "floats: truncated"),
    ],
)
def test_everything_else_ends_the_reading(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(data)


def test_values_are_bounded() -> None:
    with pytest.raises(IntegrityError, match="text of 1025 bytes, allowed 1024"):
        read(b"\x1a" + encoded(1025) + b"a" * 1025).text("text")
    with pytest.raises(IntegrityError, match="not UTF-8"):
        read(b"\x1a\x01\xff").text("text")
    with pytest.raises(IntegrityError, match="floats has 3 bytes, no multiple of 4"):
        read(b"\x2a\x03abc").floats("floats")
    size = 2**19 + 1
    with pytest.raises(IntegrityError, match=f"numbers has {size} bytes, allowed"):
        read(b"\x12" + encoded(size) + b"\x01" * size).integers("numbers")
    with pytest.raises(IntegrityError, match="more than 250000 fields"):
        parse(memoryview(b"\x10\x01" * 3), SCHEMA, "example", Budget(2))


def test_long_packed_numbers_come_in_chunks() -> None:
    data = encoded(300) * (1 << 20)
    chunks = [*varints(memoryview(data))]
    assert len(chunks) > 1 and sum(map(len, chunks)) == 1 << 20
    assert all(np.all(chunk == 300) for chunk in chunks)
    for bad in (b"\x01" + b"\xff" * 11 + b"\x01", b"\xff" * 4):
        with pytest.raises(IntegrityError):
            list(varints(memoryview(bad)))
