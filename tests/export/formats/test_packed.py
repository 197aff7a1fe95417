"""The packed format: weights take their bits, and everything is widened exactly."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qmu_edge.export.formats.packed import pack
from qmu_edge.export.graph import initializers, set_initializer
from qmu_edge.export.targets import Format
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def test_packed_weights_take_their_bits(case: Case) -> None:
    file = onnx.load_from_string(case.files[Format.PACKED].data)
    about = json.loads(file.metadata_props[0].value)
    taken = {t.name: len(t.raw_data) for t in file.graph.initializer}
    sizes = {t.name: int(np.prod(t.dims)) for t in file.graph.initializer}
    for name, bits in about["weight_bits"].items():
        assert taken[name] == -(-sizes[name] * {2: 2, 4: 4, 8: 8}[bits] // 8), name
    assert len(case.files[Format.PACKED].data) < len(case.files[Format.INTEGER].data)


def layer(scales: list[float], biases: list[int]) -> onnx.ModelProto:
    """One integer layer of 8 channels with these weight scales and int32 biases."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], axis=0),
        helper.make_node(
            "Conv", ["image", "weight", "bias"], ["logits"], group=1, kernel_shape=[1, 1], pads=[0] * 4,
            strides=[2, 2],
        ),
    ]  # fmt: skip
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("image", "logits")]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    set_initializer(model, "w", np.arange(-8, 8, dtype=np.int8).reshape(8, 2, 1, 1))
    set_initializer(model, "s", np.array(scales, np.float32))
    set_initializer(model, "b", np.array(biases, np.int32))
    return model


def test_only_what_loses_nothing_is_stored_narrow() -> None:
    short = initializers(pack(layer([0.5] * 8, [1] * 8), {"w": 4}))
    assert {v.dtype for k, v in short.items() if k != "w"} == {np.dtype(np.float16), np.dtype(np.int16)}
    long = initializers(pack(layer([0.1] * 8, [2**15] * 8), {"w": 4}))
    assert {v.dtype for k, v in long.items() if k != "w"} == {np.dtype(np.float32), np.dtype(np.int32)}
    assert short["w"].tolist() == long["w"].tolist() == initializers(layer([0.5] * 8, [1] * 8))["w"].tolist()


@pytest.mark.parametrize(
    ("bits", "element", "opset", "ir_version"),
    [
        (2, TensorProto.INT2, 25, 13),
        (3, TensorProto.INT4, 21, 10),
        (4, TensorProto.INT4, 21, 10),
        (8, TensorProto.INT8, 21, 10),
    ],
)
def test_each_width_has_its_type_and_versions(bits: int, element: int, opset: int, ir_version: int) -> None:
    model = layer([0.5] * 8, [1] * 8)
    set_initializer(model, "w", np.clip(initializers(model)["w"], -2, 1))
    packed = pack(model, {"w": bits})
    assert {t.name: t.data_type for t in packed.graph.initializer}["w"] == element
    assert (packed.opset_import[0].version, packed.ir_version) == (opset, ir_version)


def test_defaults_and_long_names_are_left_out() -> None:
    packed = pack(layer([0.5] * 8, [1] * 8), {"w": 4}, ["s"])
    (conv,) = [node for node in packed.graph.node if node.op_type == "Conv"]
    assert [a.name for a in conv.attribute] == ["strides"]
    kept = {"image", "logits", "w", "s"}
    names = {name for node in packed.graph.node for name in (*node.input, *node.output)}
    assert kept <= names and all(len(name) <= 1 for name in names - kept)
    assert initializers(packed)["s"].dtype == np.float32  # the recipe leaves it float
