"""Who reads the files: inputs, targets, fixed batches, qonnx's own executor."""

import numpy as np
import onnx
import pytest

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.exporter import TARGETS, InputSpec
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.formats.qonnx import inference_cost, quantizers
from qmu_edge.export.gates import run_file, runnable
from qmu_edge.export.graph import initializers, set_initializer
from qmu_edge.models.calibration import weight_layers
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


@pytest.mark.parametrize(("name", "batch"), [("qcdq", 1), ("integer", 7), ("packed", 1), ("qonnx", 7)])
def test_any_batch_gives_the_same_logits(one: Case, name: str, batch: int) -> None:
    assert np.array_equal(run_file(runnable(one.files[name].data), one.images[:batch]), one.logits[:batch])


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("uint8", "NHWC"),
        pytest.param("uint8", "NCHW", marks=pytest.mark.slow),
        pytest.param("float32", "NHWC", marks=pytest.mark.slow),
    ],
)
def test_any_input_gives_the_same_logits(one: Case, dtype: str, layout: str) -> None:
    for file in one.export(input=InputSpec.parse(dtype, layout), batch=3):
        graph = onnx.load_from_string(file.data).graph
        dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
        assert dims == ([3, 1, 8, 8] if layout == "NCHW" else [3, 8, 8, 1])
        assert file.parity.max_abs_difference == 0.0
    with pytest.raises(ConfigError, match="allowed float32 or uint8"):
        InputSpec.parse("int8", layout)


@pytest.mark.parametrize(
    "target",
    ["tensorrt", "hls4ml", *(pytest.param(t, marks=pytest.mark.slow) for t in ("openvino", "finn"))],
)
def test_targets(one: Case, target: str) -> None:
    formats = TARGETS[target].formats
    for file in one.export(target=target, formats=formats):
        graph = onnx.load_from_string(file.data)
        operators = {node.op_type for node in graph.graph.node}
        assert file.parity.max_abs_difference == 0.0
        if target in ("finn", "hls4ml"):
            assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
            assert ("Gemm" in operators) == (target == "finn")
        if target == "openvino":
            values = initializers(graph)
            kinds = {values[n.input[1]].dtype.kind for n in graph.graph.node if n.op_type == "Clip"}
            assert kinds == ({"i", "u"} & kinds if file.format == "qcdq" else {"f"})
        if target == "tensorrt":
            assert not any(v.dtype in (np.uint8, np.int32) for v in initializers(graph).values())
    with pytest.raises(ConfigError, match="does not take format"):
        one.export(target="finn", formats=("integer",))


def test_what_a_target_cannot_hold_is_refused(one: Case) -> None:
    graph = one.graph()
    (eight,) = [q.node for q in quantizers(graph) if q.node.output[0] == "stem.1.quant"]
    for node in graph.graph.node:  # four unsigned bits become eight
        if (
            node.op_type == "Quant"
            and node.input[3] == eight.input[3]
            and not node.input[0].endswith("weight")
        ):
            node.input[3] = "eight"
    set_initializer(graph, "eight", np.array(8, np.float32))
    with pytest.raises(ExportError, match="unsigned activations of 8 bits"):
        to_integer(graph, zero_points=False)


def test_same_network_gives_the_same_bytes(one: Case) -> None:
    again = one.export(formats=("integer", "qonnx"))
    assert {f.format: f.data for f in again} == {f.format: one.files[f.format].data for f in again}


def test_qonnx_executes_the_file_as_torch_does(one: Case) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(onnx.load_from_string(one.files["qonnx"].data))
    wrapped.set_tensor_shape("image", [2, 1, 8, 8])
    wrapped.set_tensor_shape("logits", [2, 3])
    wrapped = wrapped.transform(InferShapes())
    images = one.images[:2].astype(np.float32) / np.float32(255)
    found = execute_onnx(wrapped, {"image": images})["logits"]
    assert np.array_equal(found, one.logits[:2])


def test_cost_counts_bits(one: Case) -> None:
    cost = inference_cost(one.files["qonnx"].data)
    layers = [m for _, m in weight_layers(one.model)]
    bits = sum(m.weight.numel() * int(m.weight_quant.bit_width()) for m in layers)
    assert cost["weight_bits"] == bits
    assert cost["bit_operations"] > 16 * sum(m.weight.numel() for m in layers)
