"""Tensors and graphs: values as the onnx package decodes them, and whose operators a file holds."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import ELEMENT_TYPES, Dialect, Graph, unpack
from qmu_edge.verify.onnx.reader import read
from tests.verify import files


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("data_type", ELEMENT_TYPES)
def test_every_element_type_in_both_forms(tmp_path: Path, data_type: int, raw: bool) -> None:
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
    model = files.qcdq()
    model.graph.initializer.append(tensor)
    model.graph.output.append(helper.make_tensor_value_info("t", data_type, [3]))
    found = read(files.write(tmp_path / "model.onnx", model)).graph.initializers["t"]
    assert found.source == ("raw_data" if raw else element.typed)
    np.testing.assert_array_equal(found.array().astype(float), array.astype(float))


def test_typed_values_out_of_range(tmp_path: Path) -> None:
    model = files.qcdq()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([300] * 108)
    found = read(files.write(tmp_path / "model.onnx", model))
    with pytest.raises(ExportError, match="no INT8"):
        found.graph.initializers["conv.w"].array()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_unpacked_elements_are_those_that_were_packed(bits: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    codes = np.arange(low, low + (1 << bits))
    words = np.zeros(len(codes) * bits // 8, np.uint8)
    for place, code in enumerate(codes.tolist()):
        words[place * bits // 8] |= (code & ((1 << bits) - 1)) << (place * bits % 8)
    assert unpack(words, bits, signed).tolist() == codes.tolist()


def nested() -> onnx.ModelProto:
    """A model with a subgraph in a subgraph, which holds a tensor."""
    model = files.qcdq()
    value = numpy_helper.from_array(np.array([1.0], np.float32))
    node = helper.make_node("Constant", [], ["o"], value=value)
    for inner, outer in (("o", "m"), ("m", "z")):
        flag = helper.make_tensor_value_info(inner, TensorProto.FLOAT, [1])
        body = helper.make_graph([node], f"body of {outer}", [], [flag])
        node = helper.make_node("If", ["x"], [outer], then_branch=body)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def test_subgraphs_and_their_tensors_are_walked(tmp_path: Path) -> None:
    file = read(files.write(tmp_path / "model.onnx", nested()))
    outer, middle, inner = file.graph.walk()
    assert isinstance(inner, Graph) and outer is file.graph
    assert [node.op_type for graph in (middle, inner) for node in graph.nodes] == ["If", "Constant"]
    assert sum(1 for _ in file.tensors()) == len(file.graph.initializers) + 1


def test_nodes_are_named_in_messages(tmp_path: Path) -> None:
    file = read(files.write(tmp_path / "model.onnx", files.qcdq()))
    labels = [node.label for node in file.graph.nodes]
    assert labels[2:4] == ["Conv 'conv'", "Relu 'r'"]
    assert file.graph.nodes[0].integer("axis", 7) == 0 and file.graph.nodes[1].integer("axis", 7) == 7


def test_metadata_digest_bytes_and_dialect(tmp_path: Path) -> None:
    path = files.write(tmp_path / "model.onnx", files.qcdq())
    found = read(path)
    assert found.data == path.read_bytes() and len(found.sha256) == 64
    assert "weight_bits" in found.metadata["qmu_edge"]
    assert found.dialect is Dialect.ONNX and not found.is_qonnx
    other = read(files.write(path, files.qonnx()))
    assert other.dialect is Dialect.QONNX and other.is_qonnx
