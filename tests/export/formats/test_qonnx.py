"""QONNX: code x scale in front of Quant nodes, as qonnx's own tools read it."""

import numpy as np
import onnx
import pytest

from qmu_edge.export.formats.qonnx import clean, inference_cost, quantizers
from qmu_edge.export.graph import initializers
from qmu_edge.export.targets import Format
from qmu_edge.models.calibration import weight_layers
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def test_weights_are_code_times_scale_without_negative_zeros(case: Case) -> None:
    stored = initializers(onnx.load_from_string(case.files[Format.QONNX].data))
    for name, layer in weight_layers(case.deployed):
        if layer.weight_quant.is_quant_enabled:
            grid = stored[f"{name}.weight"]
            assert np.array_equal(grid, layer.quant_weight().value.detach().numpy()), name
            assert not np.signbit(grid[grid == 0]).any(), name
        else:
            assert np.array_equal(stored[f"{name}.weight"], layer.weight.detach().numpy()), name


def test_quantizers_say_what_their_layers_say(one: Case) -> None:
    found = {q.weight: q for q in quantizers(one.graph()) if q.weight}
    layers = {f"{name}.weight": layer for name, layer in weight_layers(one.deployed)}
    assert found.keys() == layers.keys()
    for name, q in found.items():
        proxy = layers[name].weight_quant
        assert (q.bits, q.signed) == (int(proxy.bit_width()), proxy.is_signed)
        assert np.array_equal(q.scale, proxy.scale().detach().numpy())
        assert q.high - q.low == 2**q.bits - 1 - proxy.is_narrow_range


def test_qonnx_executes_the_file_as_torch_does(one: Case) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(onnx.load_from_string(one.files[Format.QONNX].data))
    wrapped.set_tensor_shape("image", [2, 1, 8, 8])
    wrapped.set_tensor_shape("logits", [2, 3])
    wrapped = wrapped.transform(InferShapes())
    images = one.images[:2].astype(np.float32) / np.float32(255)
    found = execute_onnx(wrapped, {"image": images})["logits"]
    assert np.array_equal(found, one.logits[:2])


def test_cleaning_fixes_the_batch_and_nothing_else_without_one(one: Case) -> None:
    graph = one.graph()
    assert clean(graph, batch=None, matmul=True) == graph
    cleaned = clean(graph, batch=4, matmul=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in cleaned.graph.value_info}
    assert shapes and all(dims[0] == 4 for name, dims in shapes.items() if name.endswith(".sum"))
    operators = {node.op_type for node in cleaned.graph.node}
    assert "MatMul" in operators and "Gemm" not in operators
    assert "head.0.weight" in initializers(cleaned)  # metadata name it


def test_cost_counts_bits(one: Case) -> None:
    cost = inference_cost(one.files[Format.QONNX].data)
    layers = [m for _, m in weight_layers(one.model)]
    bits = sum(m.weight.numel() * int(m.weight_quant.bit_width()) for m in layers)
    assert cost.weight_bits == bits
    assert cost.bit_operations > 16 * sum(m.weight.numel() for m in layers)
    assert cost.activation_bits > 0
