"""Tables, products, joined tensors and parts: the proof and the reference, on a graph of them all."""

from collections.abc import Callable
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

Edit = Callable[[list[Any]], None]


def _nothing(nodes: list[Any]) -> None:
    """The graph as it is."""


def tensors() -> dict[str, Any]:
    """With nothing in the way of the proof; the table turns codes around."""
    rng = np.random.default_rng(0)
    return {
        "step": np.float32(2**-8), "out": np.float32(2**-3), "last": np.float32(2**-2), "zero": np.uint8(0),
        "table": np.arange(256, dtype=np.uint8)[::-1].copy(),
        "v": rng.integers(-63, 64, (5, 6 * 9 * 8)).astype(np.int8), "v.scale": np.full(5, 2**-7, np.float32),
        "v.zero": np.zeros(5, np.int8),
        "from": np.array([1]), "to": np.array([5]), "axes": np.array([1]), "by": np.array([2]),
        "pads": np.array([0, 1, 1, 0, 0, 3, 0, 0]), "flat": np.array([0, -1]),
    }  # fmt: skip


def written(path: Path, stored: dict[str, Any], edit: Edit = _nothing) -> Path:
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
        node("DequantizeLinear", ["v", "v.scale", "v.zero"], ["head"], "head", axis=0),
        node("Gemm", ["x", "head"], ["logits"], "logits", transB=1),
    ]
    edit(nodes)
    read_by = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items() if name in read_by],
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


def _instead(name: str, *made: Any) -> Edit:
    """Other nodes in place of one."""

    def edit(nodes: list[Any]) -> None:
        at = next(i for i, node in enumerate(nodes) if node.name == name)
        nodes[at : at + 1] = made

    return edit


def _attribute(name: str, **given: Any) -> Edit:
    """A node with more attributes."""

    def edit(nodes: list[Any]) -> None:
        (node,) = (node for node in nodes if node.name == name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())

    return edit


def _resized(mode: str) -> Edit:
    """The part by Resize, of the same size as the padded one."""
    given: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _instead(
        "u", helper.make_node("Resize", ["s", "", "", "sizes"], ["u"], "u", mode=mode, axes=[2, 3], **given)
    )


def _limited(nodes: list[Any]) -> None:
    """Codes of 0..3, and pixels of another code around them."""
    _instead(
        "s",
        helper.make_node("Slice", ["k", "from", "to", "axes", "by"], ["s.all"], "s"),
        helper.make_node("Clip", ["s.all", "zero", "three"], ["s"], "limited"),
    )(nodes)
    _instead("u", helper.make_node("Pad", ["s", "pads", "other"], ["u"], "u"))(nodes)


def _place_of_values(nodes: list[Any]) -> None:
    _instead(
        "place",
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["q.values"], "values"),
        helper.make_node("Cast", ["q.values"], ["place"], "place", to=TensorProto.INT32),
    )(nodes)


TINY = {"step": np.float32(2**-100), "out": np.float32(2**-100), "last": np.float32(2**-100)}
FAULTS: list[tuple[dict[str, Any], Edit, str, str]] = [
    (
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "other": np.uint8(255), "three": np.uint8(3),
         "v": np.full((5, 2 * 10 * 10), 127, np.int8)},
        _limited,
        "head", "up to 255 and 127 + 127 do not fit 16 bits",
    ),
    ({"sizes": np.array([16, 16]), "v": np.ones((5, 2 * 16 * 16), np.int8)}, _resized("linear"), "Resize 'u'",
     "repeat pixels"),
    ({"table": np.arange(-128, 128).astype(np.int8)}, _nothing, "Gather 't'", "no table of codes"),
    ({"one": np.float32(1)}, _place_of_values, "Cast 'place'", "no places in a table"),
    ({}, _attribute("u", mode="reflect"), "Pad 'u'", "mode: an attribute that the exporter does not write"),
    ({}, _attribute("q", saturate=0), "QuantizeLinear 'q'", "saturate: an attribute"),
    (
        {},
        _instead("head", helper.make_node("DequantizeLinear", ["v", "v.scale"], ["head"], "head", axis=0)),
        "Gemm 'logits'", "no zero point, which is computed in floats",
    ),
    (
        {"v": np.full((5, 6 * 9 * 8), 1, np.int32), "v.zero": np.zeros(5, np.int32)}, _nothing,
        "Gemm 'logits'", "a weight that is not int8",
    ),
    (TINY, _nothing, "QuantizeLinear 'q'", "no float32 of full width"),
    ({"v.scale": np.full(5, np.nan, np.float32)}, _nothing, "DequantizeLinear 'head'", "full width"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "edit", "tensor", "why"), FAULTS)
def test_an_edit_that_nothing_is_proven_of_is_named(
    tmp_path: Path, changes: dict[str, Any], edit: Edit, tensor: str, why: str
) -> None:
    found = obstacles(read(written(tmp_path / "model.onnx", tensors() | changes, edit)))
    assert [o for o in found if o.tensor == tensor and why in o.why], found


def test_pixels_that_are_repeated_are_proven(tmp_path: Path) -> None:
    changes = {"sizes": np.array([16, 16]), "v": np.ones((5, 2 * 16 * 16), np.int8)}
    path = written(tmp_path / "model.onnx", tensors() | changes, _resized("nearest"))
    assert obstacles(read(path)) == ()
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8), np.uint8)
    runner = OrtRunner(path)
    computed = run_integers(read(path), runner.fed(images))["logits"]
    assert np.array_equal(computed, runner.logits(images))
    with pytest.raises(ExportError, match="more than repeated pixels"):
        run_integers(
            read(written(tmp_path / "linear.onnx", tensors() | changes, _resized("linear"))),
            runner.fed(images),
        )


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
