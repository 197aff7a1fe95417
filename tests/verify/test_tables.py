"""Tables, products, joined tensors and parts: the proof and the reference, on a graph of them all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.onnx.operators import require_bounded
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.session import OrtRunner
from tests.verify import files


def tensors() -> dict[str, Any]:
    """With nothing in the way of the proof; the table turns codes around."""
    rng = np.random.default_rng(0)
    return {
        "step": np.float32(2**-8), "out": np.float32(2**-3), "last": np.float32(2**-2), "zero": np.uint8(0),
        "table": np.arange(256, dtype=np.uint8)[::-1].copy(),
        "v": rng.integers(-63, 64, (5, 6 * 9 * 8)).astype(np.int8), "v.scale": np.full(5, 2**-7, np.float32),
        "from": np.array([1]), "to": np.array([5]), "axes": np.array([1]), "by": np.array([2]),
        "pads": np.array([0, 1, 1, 0, 0, 3, 0, 0]), "flat": np.array([0, -1]),
    }  # fmt: skip


def written(path: Path, stored: dict[str, Any]) -> Path:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "step", "zero"], ["q"], "q"),
        node("Cast", ["q"], ["place"], "place", to=TensorProto.INT32),
        node("Gather", ["table", "place"], ["t"], "t"),
        node("DequantizeLinear", ["t", "out", "zero"], ["a"], "a"),
        node("DequantizeLinear", ["q", "step", "zero"], ["b"], "b"),
        node("Mul", ["a", "b"], ["p"], "p"),
        node("QuantizeLinear", ["p", "out", "zero"], ["r"], "r"),
        node("DequantizeLinear", ["r", "out", "zero"], ["c"], "c"),
        node("Concat", ["c", "b"], ["j"], "j", axis=1),
        node("QuantizeLinear", ["j", "last", "zero"], ["k"], "k"),
        node("Slice", ["k", "from", "to", "axes", "by"], ["s"], "s"),
        node("Pad", ["s", "pads", "zero"], ["u"], "u"),
        node("Reshape", ["u", "flat"], ["f"], "f"),
        node("DequantizeLinear", ["f", "last", "zero"], ["x"], "x"),
        node("DequantizeLinear", ["v", "v.scale"], ["head"], "head", axis=0),
        node("Gemm", ["x", "head"], ["logits"], "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )  # fmt: skip
    return files.write(
        path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )


def test_a_graph_of_them_is_proven_and_numpy_computes_what_onnxruntime_does(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx", tensors())
    assert obstacles(read(path)) == ()
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8), np.uint8)
    runner = OrtRunner(path)
    found = run_integers(read(path), runner.fed(images))["logits"]
    assert found.any() and np.array_equal(found, runner.logits(images))


@pytest.mark.parametrize(
    ("changes", "tensor", "why"),
    [
        ({"out": np.float32(0.1)}, "r", "no power of two"),
        ({"last": np.float32(0.1)}, "k", "no power of two"),
        ({"table": np.arange(200, dtype=np.uint8)}, "Gather 't'", "no table of codes"),
    ],
)
def test_what_differs_between_processors_is_named(
    tmp_path: Path, changes: dict[str, Any], tensor: str, why: str
) -> None:
    found = obstacles(read(written(tmp_path / "model.onnx", tensors() | changes)))
    assert [o for o in found if o.tensor == tensor and why in o.why], found


@pytest.mark.parametrize(
    "changes",
    [
        {"table": np.zeros(257, np.uint8)},
        {"to": np.array([7])},
        {"by": np.array([0])},
        {"pads": np.array([1, 0, 0, 0, 0, 0, 0, 0])},
        {"pads": np.array([0, 0, -1, 0, 0, 0, 0, 0])},
    ],
)
def test_shapes_that_are_no_parts_of_images_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="its shape cannot be told"):
        require_bounded(read(written(tmp_path / "model.onnx", tensors() | changes)))
