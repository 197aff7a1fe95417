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

from qmu_edge.errors import ExportError, IntegrityError, QmuEdgeError
from qmu_edge.verify.latent_weights import inspect_weights
from qmu_edge.verify.onnx import reader
from qmu_edge.verify.onnx.graph import ELEMENT_TYPES
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.onnx.wire import Budget


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


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("data_type", ELEMENT_TYPES)
def test_every_element_type_in_both_forms(make: Any, save: Any, data_type: int, raw: bool) -> None:
    values = {1: [0.5, -1.5, 3e38], 10: [0.5, -2.0, 6e4], 11: [0.1, -1e300, 2.0]}.get(data_type)
    element = ELEMENT_TYPES[data_type]
    low, high = (-(1 << (element.bits - 1)), (1 << (element.bits - 1)) - 1)
    if not element.is_signed:
        low, high = 0, 1 if element.name == "BOOL" else (1 << element.bits) - 1
    array = np.array(values or [low, high, 1]).astype(helper.tensor_dtype_to_np_dtype(data_type), copy=False)
    tensor = (
        numpy_helper.from_array(array, "t")
        if raw
        else helper.make_tensor("t", data_type, [3], array.tolist())
    )
    model = make.qcdq()
    model.graph.initializer.append(tensor)
    model.graph.output.append(helper.make_tensor_value_info("t", data_type, [3]))
    found = read(save(model)).graph.initializers["t"]
    assert found.source == ("raw_data" if raw else element.typed)
    np.testing.assert_array_equal(found.array().astype(float), array.astype(float))


def test_metadata_digest_and_bytes(make: Any, save: Any) -> None:
    path = save(make.qcdq())
    found = read(path)
    assert found.data == path.read_bytes() and len(found.sha256) == 64
    assert "weight_bits" in found.metadata["qmu_edge"]
    assert not found.is_qonnx and read(save(make.qonnx())).is_qonnx


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


def test_typed_values_out_of_range(make: Any, save: Any) -> None:
    model = make.qcdq()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([300] * 108)
    with pytest.raises(ExportError, match="no INT8"):
        read(save(model)).graph.initializers["conv.w"].array()


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


def test_bytes_behind_unknown_or_second_fields(make: Any, save: Any, tmp_path: Path) -> None:
    data = make.qcdq().SerializeToString()
    path = tmp_path / "smuggled.onnx"
    path.write_bytes(data + b"\xfa\x3e\x04abcd")  # field 1007: other readers skip it
    with pytest.raises(ExportError, match="unknown field 1007"):
        read(path)
    path.write_bytes(data + data)  # other readers merge the two
    with pytest.raises(IntegrityError, match="twice"):
        read(path)


def test_many_tiny_messages_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "Budget", lambda: Budget(5000))  # the real one takes seconds
    graph = b"\x0a\x00" * 1_200_000  # 2.4 MB of empty nodes
    path = tmp_path / "bomb.onnx"
    size = len(graph)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    path.write_bytes(b"\x3a" + length + graph)
    with pytest.raises(IntegrityError, match="fields"):
        read(path)


def _gate(path: Path, data: bytes) -> None:
    """Run all that looks at the bytes; any error but ours fails the test."""
    path.write_bytes(data)
    try:
        inspect_weights(read(path))
    except QmuEdgeError:
        pass


@pytest.mark.parametrize("form", ["qcdq", "qonnx"])
def test_every_truncation(make: Any, tmp_path: Path, form: str) -> None:
    data = getattr(make, form)().SerializeToString()
    for length in range(0, len(data) - 1, 3):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[:length])
        # a cut between two top-level fields leaves a valid, shorter model
        _gate(path, data[:length])
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(QmuEdgeError):
        read(path)


@given(form=st.sampled_from(["qcdq", "qonnx"]), seed=st.integers(0, 2**32))
@example(form="qonnx", seed=41478)  # a quantizer that has lost an input
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
