"""The strict reader: equal to the onnx package on honest files, never surprised by others."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError, IntegrityError
from qmu_edge.verify.latent_weights import inspect_weights
from qmu_edge.verify.onnx import reader
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.onnx.wire import Budget, varint


@pytest.mark.parametrize("name", ["qcdq", "qcdq_dynamo", "qonnx"])
def test_equals_the_onnx_package(brevitas_exports: dict[str, Path], name: str) -> None:
    expected = onnx.load(brevitas_exports[name])
    found = read(brevitas_exports[name])
    assert found.ir_version == expected.ir_version
    assert found.opset_imports == {o.domain: o.version for o in expected.opset_import}
    nodes = [(n.op_type, n.domain, n.name, tuple(n.input), tuple(n.output)) for n in expected.graph.node]
    assert [(n.op_type, n.domain, n.name, n.inputs, n.outputs) for n in found.graph.nodes] == nodes
    assert [*found.graph.initializers] == [t.name for t in expected.graph.initializer]
    for tensor in expected.graph.initializer:
        np.testing.assert_array_equal(
            found.graph.initializers[tensor.name].array(), numpy_helper.to_array(tensor)
        )
    for ours, theirs in zip(found.graph.nodes, expected.graph.node, strict=True):
        for attribute in theirs.attribute:
            _same_attribute(ours.attributes[attribute.name], helper.get_attribute_value(attribute))
    dims = [d.dim_value for d in expected.graph.input[0].type.tensor_type.shape.dim]
    assert [*found.graph.inputs[0].dims] == dims


def _same_attribute(ours: Any, theirs: Any) -> None:
    listed = [*theirs] if isinstance(theirs, (list, tuple)) else [theirs]
    assert [*ours.floats, *ours.ints, *ours.strings] == listed


def test_what_is_no_model_file(tmp_path: Path, make: Any, save: Any) -> None:
    path = tmp_path / "bad"
    for content in (b"", b"\x00" * 9, b"hello world", b"\x08\x0a", b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises((IntegrityError, ExportError), match="bad"):
            read(path)
    with pytest.raises(IntegrityError, match="allowed 1 to 10"):
        read(save(make.qcdq()), max_bytes=10)
    with pytest.raises(IntegrityError):
        read(tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read(tmp_path / "absent")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IntegrityError, match="regular"):
        read(tmp_path / "fifo")


def _nested(depth: int) -> onnx.NodeProto:
    flag = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
    nodes = [_nested(depth - 1)] if depth else []
    body = helper.make_graph(nodes, "body", [], [flag])
    return helper.make_node("If", ["x"], [f"if{depth}"], then_branch=body)


def test_foreign_domain(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.graph.node[3].domain = "com.evil"
    with pytest.raises(ExportError, match=r"'com\.evil'; allowed domains"):
        read(save(model))


def test_unused_initializer(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1.0], np.float32), "latent"))
    with pytest.raises(ExportError, match="'latent' is unused"):
        read(save(model))
    model.graph.node.append(helper.make_node("Identity", ["latent"], ["dead"]))
    with pytest.raises(ExportError, match="'latent' is unused"):
        read(save(model))
    del model.graph.initializer[-1], model.graph.node[-1]
    value = numpy_helper.from_array(np.array([1.0], np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["dead"], value=value))
    with pytest.raises(ExportError, match="holds a tensor"):
        read(save(model))


def test_external_data(make: Any, save: Any) -> None:
    for location in (TensorProto.EXTERNAL, TensorProto.DEFAULT):
        model = make.qcdq()
        tensor = model.graph.initializer[0]
        tensor.data_location = location
        tensor.external_data.add(key="location", value="/etc/passwd")
        with pytest.raises(ExportError, match="external data"):
            read(save(model))


def test_sizes_that_lie(make: Any, save: Any) -> None:
    for dims in ([4, 3, 3, 4], [4, 3, 3], [-4, -3, 3, 3], [2**62, 2**62, 0], [1] * 9, [2**40]):
        model = make.qcdq()
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        with pytest.raises(ExportError, match=r"conv\.w"):
            read(save(model))


def test_values_given_twice(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.graph.initializer[1].float_data.extend([1.0] * 4)
    with pytest.raises(ExportError, match="allowed one of"):
        read(save(model))


def test_structures_that_are_refused(make: Any, save: Any) -> None:
    functions = make.qcdq()
    functions.functions.add(name="f", domain="")
    training = make.qcdq()
    training.training_info.add()
    sparse = make.qcdq()
    sparse.graph.sparse_initializer.add()
    twice = make.qcdq()
    twice.graph.initializer.append(twice.graph.initializer[0])
    deep = make.qcdq()
    deep.graph.node.append(_nested(12))
    strings = make.qcdq()
    strings.graph.initializer.add(name="t", data_type=TensorProto.STRING, string_data=[b"a"])
    for model in (functions, training, sparse, twice, deep, strings):
        with pytest.raises(ExportError):
            read(save(model))


def test_shallow_subgraphs_are_read(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.graph.node.append(_nested(3))
    # every body claims an output "o" that nobody computes; only the depth is looked at here
    assert len([*read(save(model)).graph.walk()]) == 5


@pytest.mark.parametrize(
    "data",
    [b"not a model", b"\n\nlines\n", b'{"a": 1}', b"\x89PNG\r\n\x1a\n" + bytes(9), b"PK\x03\x04" + bytes(40),
     b"%PDF-1.7\n", b"\x28" + bytes(7) + b'{"weight":{}}', b"\x08\x07"],
)  # fmt: skip
def test_what_is_no_onnx_file_is_called_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises((IntegrityError, ExportError), match=r"x\.onnx: .*not an ONNX (file|model)"):
        read(tmp_path / "x.onnx")


def test_bytes_behind_unknown_or_second_fields(make: Any, save: Any, tmp_path: Path) -> None:
    data = make.qcdq().SerializeToString()
    path = tmp_path / "smuggled.onnx"
    path.write_bytes(data + b"\xfa\x3e\x04abcd")  # field 1007: other readers skip it
    with pytest.raises(ExportError, match="unknown field 1007"):
        read(path)
    path.write_bytes(data + data)  # other readers merge the two
    with pytest.raises(IntegrityError, match="twice"):
        read(path)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field, shorter than 128 bytes."""
    return bytes(
        [number << 3 & 127 | 2 | (128 if number > 15 else 0), *([number >> 4] if number > 15 else [])]
    ) + (bytes([len(data)]) + data)


HIDDEN = b"\xff\xfe no protobuf, no text"
NESTED: dict[str, tuple[str, bytes]] = {
    "documentation of the model": ("", _field(6, HIDDEN)),
    "domain of the model": ("", _field(4, HIDDEN)),
    "configuration of devices": ("", _field(26, HIDDEN)),
    "name of the graph": ("graph", _field(2, HIDDEN)),
    "documentation of the graph": ("graph", _field(10, HIDDEN)),
    "a value": ("graph", _field(13, HIDDEN)),
    "the shape of a value": ("graph", _field(13, _field(2, _field(1, _field(2, HIDDEN))))),
    "an annotation": ("graph", _field(14, HIDDEN)),
    "a pair of an annotation": ("graph", _field(14, _field(2, HIDDEN))),
    "metadata of the graph": ("graph", _field(16, HIDDEN)),
    "documentation of a node": ("node", _field(6, HIDDEN)),
    "metadata of a node": ("node", _field(9, HIDDEN)),
    "devices of a node": ("node", _field(10, HIDDEN)),
    "documentation of an attribute": ("attribute", _field(13, HIDDEN)),
    "documentation of a tensor": ("tensor", _field(12, HIDDEN)),
    "metadata of a tensor": ("tensor", _field(16, HIDDEN)),
    "documentation of the input": ("input", _field(3, HIDDEN)),
    "metadata of the input": ("input", _field(4, HIDDEN)),
}


@pytest.mark.parametrize("name", NESTED)
def test_no_field_is_passed_over(make: Any, tmp_path: Path, name: str) -> None:
    """The bytes are put where the wire format allows them, which the onnx package cannot."""
    inside, field = NESTED[name]
    model, path = make.qcdq(), tmp_path / "model.onnx"
    parts = {
        "": None, "graph": model.graph, "node": model.graph.node[0], "input": model.graph.input[0],
        "attribute": model.graph.node[0].attribute[0], "tensor": model.graph.initializer[0],
    }  # fmt: skip
    if (part := parts[inside]) is None:
        path.write_bytes(model.SerializeToString() + field)
    else:
        whole, old = model.SerializeToString(), part.SerializeToString()
        path.write_bytes(_grown(whole, old, old + field))
    with pytest.raises((ExportError, IntegrityError), match=r"model\.onnx: "):
        read(path)


def _grown(data: bytes, old: bytes, new: bytes) -> bytes:
    """A message with `new` in the place of the first message `old` inside it, and the lengths around it."""
    at, found = 0, b""
    while at < len(data):
        start = at
        key, at = varint(memoryview(data), at)
        if key & 7 != 2:
            at = varint(memoryview(data), at)[1] if key & 7 == 0 else at + 4
            found += data[start:at]
            continue
        head = data[start:at]
        length, at = varint(memoryview(data), at)
        inner, at = data[at : at + length], at + length
        if inner == old:
            return found + head + _length(len(new)) + new + data[at:]
        if old in inner and (changed := _grown(inner, old, new)) != inner:
            return found + head + _length(len(changed)) + changed + data[at:]
        found += data[start:at]
    return found


def _length(n: int) -> bytes:
    return bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14])


def test_many_tiny_messages_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "Budget", lambda: Budget(5000))  # the real one takes seconds
    graph = b"\x0a\x00" * 1_200_000  # 2.4 MB of empty nodes
    path = tmp_path / "bomb.onnx"
    size = len(graph)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    path.write_bytes(b"\x3a" + length + graph)
    with pytest.raises(IntegrityError, match="fields"):
        read(path)


def _gate(path: Path, data: bytes) -> bool:
    """Whether the gate takes these bytes; then the onnx package reads the same from them.

    Bytes that are refused end in one of the two errors of model files, whose message names the file.
    """
    path.write_bytes(data)
    try:
        found = read(path)
        report = inspect_weights(found)
    except (IntegrityError, ExportError) as error:
        assert str(path) in str(error) or "tensor" in str(error)
        return False
    assert found.data == data
    expected = onnx.load_from_string(data)
    assert [n.op_type for n in found.graph.nodes] == [n.op_type for n in expected.graph.node]
    assert [*found.graph.initializers] == [t.name for t in expected.graph.initializer]
    for tensor in expected.graph.initializer:
        ours, theirs = found.graph.initializers[tensor.name].array(), numpy_helper.to_array(tensor)
        assert ours.tobytes() == theirs.astype(ours.dtype).tobytes()
    return not report.problems


@pytest.mark.parametrize("form", ["qcdq", "qonnx"])
def test_every_truncation(make: Any, tmp_path: Path, form: str) -> None:
    data = getattr(make, form)().SerializeToString()
    assert _gate(tmp_path / "whole.onnx", data)
    # a cut between two top-level fields leaves a valid, shorter model
    whole = [n for n in range(0, len(data) - 1, 3) if _gate(tmp_path / "cut.onnx", data[:n])]
    assert all(n > len(data) * 0.9 for n in whole)


@given(form=st.sampled_from(["qcdq", "qonnx"]), seed=st.integers(0, 2**32))
@example(form="qonnx", seed=41478)  # a quantizer that has lost an input
@example(form="qcdq", seed=6308)  # a field of no use here that the onnx package cannot read
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes(make: Any, tmp_path: Path, form: str, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(getattr(make, form)().SerializeToString())
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    _gate(tmp_path / "flipped.onnx", bytes(data))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    _gate(tmp_path / "noise.onnx", data)
