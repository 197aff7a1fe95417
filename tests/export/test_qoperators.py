"""Operators of integers are what QuantizeLinear says they are, under onnxruntime itself."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.export.qoperators import FORMS, expanded

CODES = np.random.default_rng(0)
IMAGE = ["x", "x.scale", "x.zero"]
GRID = ["y.scale", "y.zero"]
STORED: dict[str, Any] = {
    "x.scale": np.float32(0.02), "x.zero": np.uint8(90), "y.scale": np.float32(0.1), "y.zero": np.uint8(120),
    "w": CODES.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
    "rows": CODES.integers(-127, 128, (6, 4)).astype(np.int8),
    "columns": CODES.integers(-127, 128, (4, 6)).astype(np.int8),
    "scales": CODES.uniform(0.001, 0.01, 6).astype(np.float32), "zeros": np.zeros(6, np.int8),
    "bias": CODES.integers(-9999, 9999, 6).astype(np.int32),
}  # fmt: skip
SHARED = ["scales", "zeros"]
INPUTS = {
    "QLinearConv": [*IMAGE, "w", *SHARED, *GRID, "bias"],
    "QLinearMatMul": [*IMAGE, "columns", *SHARED, *GRID],
    "QGemm": [*IMAGE, "rows", *SHARED, "bias", *GRID],
    "QLinearAdd": [*IMAGE, *IMAGE, *GRID],
    "QLinearMul": [*IMAGE, *IMAGE, *GRID],
    "QLinearGlobalAveragePool": [*IMAGE, *GRID],
    "QLinearAveragePool": [*IMAGE, *GRID],
    "QLinearLeakyRelu": [*IMAGE, *GRID],
    "QLinearSigmoid": [*IMAGE, *GRID],
    "QLinearConcat": [*GRID, *IMAGE, *IMAGE],
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "QLinearConv": {"pads": [1, 1, 1, 1], "strides": [2, 2]}, "QGemm": {"transB": 1},
    "QLinearAveragePool": {"kernel_shape": [2, 2]}, "QLinearConcat": {"axis": 1},
    "QLinearLeakyRelu": {"alpha": 0.1}, "QLinearGlobalAveragePool": {"channels_last": 0},
}  # fmt: skip
FLAT = ("QGemm", "QLinearMatMul")
STANDARD = ("QLinearConv", "QLinearMatMul")


def graph(op_type: str, **changed: Any) -> onnx.ModelProto:
    """One such operator on codes, and their values."""
    shape: Any = ["n", 4] if op_type in FLAT else ["n", 4, 6, 6]
    domain = "" if op_type in STANDARD else "com.microsoft"
    attributes = ATTRIBUTES.get(op_type, {}) | changed
    node = helper.make_node(op_type, INPUTS[op_type], ["y"], "it", domain=domain, **attributes)
    values = helper.make_node("DequantizeLinear", ["y", *GRID], ["out"])
    model = helper.make_model(
        helper.make_graph(
            [node, values], "one", [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in STORED.items() if n in INPUTS[op_type]],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8,
    )  # fmt: skip
    return model


def answer(model: onnx.ModelProto, codes: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": codes})[0]
    return found


@pytest.mark.parametrize("op_type", FORMS)
def test_it_computes_what_the_plain_one_does_between_grids(op_type: str) -> None:
    before = graph(op_type)
    behind = expanded(before)
    assert not {node.op_type for node in behind.graph.node} & FORMS.keys()
    shape = (5, 4) if op_type in FLAT else (5, 4, 6, 6)
    codes = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    one, other = answer(before, codes), answer(behind, codes)
    assert len(np.unique(one)) > 2  # there is something to compare
    # A tie, or a sum in another order, is one code of the grid; most are the same.
    assert np.abs(one - other).max() < 1.01 * STORED["y.scale"]
    assert (one == other).mean() > 0.99


def test_a_graph_without_such_operators_is_left_alone() -> None:
    model = expanded(graph("QLinearAdd"))
    assert expanded(model) is model


def test_what_cannot_be_written_so_is_named() -> None:
    with pytest.raises(ExportError, match=r"^QLinearGlobalAveragePool 'it': reads images whose channels"):
        expanded(graph("QLinearGlobalAveragePool", channels_last=1))
    model = graph("QLinearAdd")
    model.graph.node[0].op_type = "FusedMatMul"
    with pytest.raises(ExportError, match=r"^FusedMatMul 'it': an operator of onnxruntime's own"):
        expanded(model)
    model = graph("QLinearConv")
    kept = [t for t in model.graph.initializer if t.name != "bias"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(ExportError, match=r"^QLinearConv 'it': 'bias' is computed and not stored"):
        expanded(model)
