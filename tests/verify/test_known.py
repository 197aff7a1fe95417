"""Floats of codes: bounds and units against numbers, and the proof of softmax and layer-norm with faults."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.known import ROOT, Floats, combined, floats_in, place_of, summed
from qmu_edge.verify.onnx.reader import read
from tests.verify import files

OPERATORS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


@pytest.mark.parametrize("op_type", OPERATORS)
@pytest.mark.parametrize("seed", range(5))
def test_bounds_and_units_hold_for_numbers(op_type: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-9, 9, 50) * unit for unit in 2.0 ** rng.integers(-4, 4, 2))
    known = [floats_in(v.astype(np.float32)) for v in (x, y)]
    found, values = combined(op_type, *known), OPERATORS[op_type](x[:, None], y)
    assert found.low <= values.min() <= values.max() <= found.high
    assert found.unit and not (values % found.unit).any()


def test_a_sum_that_is_rounded_on_its_way_is_refused() -> None:
    assert summed(Floats(0.0, 1.0, 2.0**-20), 16).unit
    for x in (Floats(0.0, 1.0, 2.0**-20), Floats(0.0, 1.0)):
        with pytest.raises(ExportError, match="depends on their order"):
            summed(x, 17)


@pytest.mark.parametrize(("x", "element"), [(Floats(-1.0, 3.0), "INT64"), (Floats(0.0, 3.0), "INT32")])
def test_what_is_no_place_in_a_table_is_refused(x: Floats, element: str) -> None:
    with pytest.raises(ExportError, match="no places"):
        place_of(x, element)


def tensors() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    exponentials = np.rint(np.exp(np.arange(-255, 1) * 2.0**-4) * 2**20) * 2.0**-20
    return {
        "step": np.float32(2**-8), "fine": np.float32(2**-7), "zero": np.uint8(0), "middle": np.uint8(128),
        "last": np.array([-1]), "inverse_step": np.float32(256), "half_up": np.float32(255.5),
        "table": exponentials.astype(np.float32), "inverse": np.float32(1 / 8), "eps": np.float32(1e-5),
        "gain": rng.random(8, np.float32), "bias": rng.random(8, np.float32), "scale": np.float32(2**-4),
        "places": rng.integers(0, 256, (1, 3, 8, 8)).astype(np.uint8),
        "below": np.float32(2**-8 * (1 - 2**-12)), "flat": np.array([0, -1]),
        "v": rng.integers(-9, 10, (5, 192)).astype(np.int8),
        "v.scale": np.full(5, 2**-7, np.float32), "v.zero": np.zeros(5, np.int8),
    }  # fmt: skip


def written(path: Path, stored: dict[str, Any], **inputs: list[str]) -> Path:
    """A stored tensor is added to the image; softmax, a product of matrices, layer-norm, a linear layer."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "step", "zero"], ["q"], "q"),
        node("DequantizeLinear", ["q", "below", "zero"], ["a"], "a"),
        node("DequantizeLinear", ["places", "below", "middle"], ["p"], "p"),
        node("Add", ["a", "p"], ["s"], "s"),
        node("QuantizeLinear", ["s", "fine", "middle"], ["c"], "c"),
        node("DequantizeLinear", ["c", "fine", "middle"], ["x"], "x"),
        node("ReduceMax", ["x", "last"], ["largest"], "largest"),
        node("Sub", ["x", "largest"], ["under"], "under"),
        node("Mul", ["under", "inverse_code"], ["steps"], "steps"),
        node("Add", ["steps", "half_up"], ["raised"], "raised"),
        node("Cast", ["raised"], ["place"], "place", to=TensorProto.INT64),
        node("Gather", ["table", "place"], ["found"], "found"),
        node("ReduceSum", ["found", "last"], ["total"], "total"),
        node("Div", ["found", "total"], ["shares"], "shares"),
        node("QuantizeLinear", ["shares", "step", "zero"], ["d"], "d"),
        node("DequantizeLinear", ["d", "step", "zero"], ["e"], "e"),
        node("MatMul", ["e", "x"], ["m"], "m"),
        node("QuantizeLinear", ["m", "fine", "middle"], ["g"], "g"),
        node("DequantizeLinear", ["g", "fine", "middle"], ["h"], "h"),
        node("ReduceSum", ["h", "last"], ["sum"], "sum"),
        node("Mul", ["sum", "inverse"], ["mean"], "mean"),
        node("Mul", ["h", "h"], ["power"], "power"),
        node("ReduceSum", ["power", "last"], ["powers"], "powers"),
        node("Mul", ["powers", "inverse"], ["squares"], "squares"),
        node("Mul", ["mean", "mean"], ["square"], "square"),
        node("Sub", ["squares", "square"], ["spread"], "spread"),
        node("Relu", ["spread"], ["variance"], "variance"),
        node("Add", ["variance", "eps"], ["above"], "above"),
        node("Sqrt", ["above"], ["deviation"], "deviation"),
        node("Sub", ["h", "mean"], ["centred"], "centred"),
        node("Div", ["centred", "deviation"], ["apart"], "apart"),
        node("Mul", ["apart", "gain"], ["scaled"], "scaled"),
        node("Add", ["scaled", "bias"], ["shifted"], "shifted"),
        node("QuantizeLinear", ["shifted", "scale", "middle"], ["n"], "n"),
        node("Reshape", ["n", "flat"], ["f"], "f"),
        node("DequantizeLinear", ["f", "scale", "middle"], ["y"], "y"),
        node("DequantizeLinear", ["v", "v.scale", "v.zero"], ["head"], "head", axis=0),
        node("Gemm", ["y", "head"], ["logits"], "logits", transB=1),
    ]
    stored = {"inverse_code": np.float32(128), **stored}
    for each in nodes:
        each.input[:] = inputs.get(each.name, each.input)
    read_by = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items() if name in read_by],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return files.write(path, model)


def test_softmax_and_layer_norm_are_proven_but_for_the_root(tmp_path: Path) -> None:
    found = obstacles(read(written(tmp_path / "model.onnx", tensors())))
    assert [(o.tensor, o.why) for o in found] == [("deviation", ROOT)]


def test_the_reference_says_what_onnxruntime_does(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx", tensors())
    images = np.random.default_rng(1).random((4, 3, 8, 8), np.float32)
    expected = run_integers(read(path), images)["logits"]
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"image": images})[0], expected)


FAULTS: dict[str, tuple[dict[str, Any], dict[str, list[str]], str]] = {
    "sums that are rounded": (
        {"table": np.exp(np.arange(-255, 1) / 16).astype(np.float32)}, {}, "depends on their order"
    ),
    "another step than that of the codes": ({"inverse_code": np.float32(256)}, {}, "no places in a table"),
    "the largest of another tensor": ({}, {"under": ["a", "largest"]}, "no table of codes"),
    "along the first axis": ({"last": np.array([1])}, {}, "not along the last axis"),
    "a free step of matrices": (
        {"step": np.float32(0.004), "below": np.float32(0.004)}, {}, "no power of two"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_same_everywhere_is_named(tmp_path: Path, fault: str) -> None:
    changes, inputs, why = FAULTS[fault]
    found = obstacles(read(written(tmp_path / "model.onnx", tensors() | changes, **inputs)))
    assert any(why in o.why for o in found), found
