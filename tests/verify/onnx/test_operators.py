"""What a file may ask a runtime to do: counted as the onnx package does, and no more than is allowed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from qmu_edge.errors import ExportError
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.onnx import operators
from qmu_edge.verify.onnx.operators import MAX_COMPUTED, MAX_PRODUCTS, RULES, require_bounded
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.session import OrtRunner

Nodes = list[onnx.NodeProto]
Save = Callable[[onnx.ModelProto], Path]


IMAGES = ("n", 3, 8, 8)


def _model(nodes: Nodes, stored: dict[str, Any], shape: tuple[int | str, ...] = IMAGES) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _node(kind: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [out], **attributes)


FLOATS = {"w": np.ones((4, 3, 3, 2), np.float32), "m": np.ones((8, 5), np.float32), "one": np.float32(1)}
PADDED: dict[str, Any] = {"pads": [2, 1, 0, 3], "strides": [2, 3]}
FUNCTIONS = ("Elu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Tanh")
HONEST: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "Conv": (_node("Conv", "x", "w", **PADDED, dilations=[2, 1]), {"w": FLOATS["w"]}),
    "a plain Conv": (_node("Conv", "x", "w"), {"w": FLOATS["w"]}),
    "MaxPool": (_node("MaxPool", "x", kernel_shape=[3, 4], **PADDED), {}),
    "GlobalAveragePool": (_node("GlobalAveragePool", "x"), {}),
    "ReduceMean": (_node("ReduceMean", "x", "a"), {"a": np.array([-1, 2])}),
    "ReduceMax": (_node("ReduceMax", "x", "a"), {"a": np.array([-1])}),
    "ReduceSum": (_node("ReduceSum", "x", "a"), {"a": np.array([-1, 1])}),
    "Softmax": (_node("Softmax", "x", axis=-1), {}),
    "Sqrt": (_node("Sqrt", "x"), {}),
    "LayerNormalization": (_node("LayerNormalization", "x", "l", axis=-1), {"l": np.ones(8, np.float32)}),
    "ReduceMean away": (_node("ReduceMean", "x", "a", keepdims=0), {"a": np.array([-1])}),
    "ReduceMean of all": (_node("ReduceMean", "x"), {}),
    "Reshape": (_node("Reshape", "x", "s"), {"s": np.array([0, -1, 4])}),
    "Flatten": (_node("Flatten", "x", axis=2), {}),
    "Flatten from behind": (_node("Flatten", "x", axis=-1), {}),
    "Transpose": (_node("Transpose", "x", perm=[0, 2, 3, 1]), {}),
    "Transpose turned around": (_node("Transpose", "x"), {}),
    "MatMul": (_node("MatMul", "x", "m"), {"m": FLOATS["m"]}),
    "Add": (_node("Add", "x", "b"), {"b": np.ones((5, 1, 3, 1, 1), np.float32)}),
    "Sub": (_node("Sub", "x", "one"), {"one": FLOATS["one"]}),
    "Mul": (_node("Mul", "x", "x"), {}),
    "Div": (_node("Div", "one", "x"), {"one": FLOATS["one"]}),
    "Relu": (_node("Relu", "x"), {}),
    **{kind: (_node(kind, "x"), {}) for kind in FUNCTIONS},
    "AveragePool": (_node("AveragePool", "x", kernel_shape=[3, 4], count_include_pad=1, **PADDED), {}),
    "Concat": (_node("Concat", "x", "x", "c", axis=1), {"c": np.ones((2, 5, 8, 8), np.float32)}),
    "Gather": (_node("Gather", "t", "i"), {"t": np.ones(9, np.uint8), "i": np.zeros((2, 3), np.int64)}),
    "Slice": (
        _node("Slice", "x", "from", "to", "axes", "by"),
        {"from": np.array([1, 2]), "to": np.array([3, 7]), "axes": np.array([1, 3]), "by": np.array([1, 2])},
    ),
    "Pad": (
        _node("Pad", "x", "pads", "one"), {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 3]), "one": FLOATS["one"]},
    ),
    "Resize": (
        _node("Resize", "x", "", "", "sizes", axes=[2, 3], mode="nearest"), {"sizes": np.array([16, 24])},
    ),
    "Clip": (_node("Clip", "x", "", "one"), {"one": FLOATS["one"]}),
    "Cast": (_node("Cast", "x", to=TensorProto.INT64), {}),
    "Identity": (_node("Identity", "x"), {}),
    "QuantizeLinear": (
        _node("QuantizeLinear", "x", "one", "z"), {"one": FLOATS["one"], "z": np.uint8(3)},
    ),
    "DequantizeLinear": (
        _node("DequantizeLinear", "c", "one"), {"c": np.ones((2, 3), np.int8), "one": FLOATS["one"]},
    ),
    "Gemm": (
        _node("Gemm", "m", "v", transA=1, transB=1), {"m": FLOATS["m"], "v": np.ones((6, 8), np.float32)},
    ),
}  # fmt: skip


def test_the_page_names_what_is_allowed() -> None:
    page = " ".join((Path(operators.__file__).parents[1] / "README.md").read_text().split())
    named = page.split("operators that the exporter writes: ")[1].split(", Constant, and QONNX's Quant")[0]
    assert sorted(named.split(", ")) == sorted(RULES)


def test_every_rule_has_a_row() -> None:
    assert RULES.keys() == {name.split()[-1 if name.startswith("a ") else 0] for name in HONEST}


@pytest.mark.parametrize("name", HONEST)
def test_shapes_are_those_of_the_onnx_package(save: Save, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node, stored = HONEST[name]
    model = _model([node], stored, (2, 3, 8, 8))
    model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    (known,) = shape_inference.infer_shapes(model, data_prop=True).graph.output
    expected = [d.dim_value for d in known.type.tensor_type.shape.dim]
    found = require_bounded(read(save(model)))
    assert found.computed == math.prod(expected) + (
        found.products // expected[1] if node.op_type == "Conv" else 0
    )
    monkeypatch.setattr(operators, "MAX_COMPUTED", found.computed - 1)
    with pytest.raises(ExportError, match=rf"computes {found.computed} elements"):
        require_bounded(read(save(model)))


def test_what_a_convolution_lays_out_is_bounded(save: Save) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = _model([node], {"w": np.zeros((1, 1, 64, 64), np.float32)}, (1, 1, 763, 763))
    with pytest.raises(ExportError, match="a run computes 2007530000 elements"):
        require_bounded(read(save(model)))


def test_work_is_counted(save: Save) -> None:
    """A 3x2 window over 3 channels, 4 times for each of 6x7 places; 8 products for each of 5 numbers."""
    conv = _model([_node("Conv", "x", "w")], {"w": FLOATS["w"]})
    assert require_bounded(read(save(conv)), batch=10).products == 10 * 4 * 6 * 7 * 3 * 3 * 2
    product = _model([_node("MatMul", "x", "m")], {"m": FLOATS["m"]})
    assert require_bounded(read(save(product))).products == 3 * 8 * 5 * 8


UNTOLD = "its shape cannot be told"


def _loop() -> Nodes:
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "s": TensorProto.FLOAT}
    values = {n: helper.make_tensor_value_info(n, kind, []) for n, kind in kinds.items()}
    body = helper.make_graph(
        [_node("Identity", "c", out="c2"), _node("Identity", "s", out="s2")], "body", [*values.values()],
        [helper.make_tensor_value_info(n, kinds[n[0]], []) for n in ("c2", "s2")],
    )  # fmt: skip
    return [helper.make_node("Loop", ["rounds", "go", "x"], ["y"], body=body)]


def _chain(kind: str, times: int, *others: str) -> Nodes:
    """From t0 on, one after the other."""
    return [_node(kind, f"t{i}", *others, out=f"t{i + 1}") for i in range(times)]


HUGE: dict[str, Any] = {"pads": [2**30] * 4}
HOSTILE: dict[str, tuple[Nodes, dict[str, Any], str]] = {
    "a loop": (
        _loop(), {"rounds": np.array(2**62), "go": np.array(True)}, "operator Loop 'y'; allowed: Add",
    ),
    "ones without end": (
        [_node("ConstantOfShape", "s", out="c"), _node("Add", "x", "c")], {"s": np.array([2**31])},
        "operator ConstantOfShape",
    ),
    "expanded": ([_node("Expand", "x", "s")], {"s": np.array([2**31, 3, 8, 8])}, "operator Expand"),
    "tiled": ([_node("Tile", "x", "s")], {"s": np.array([9**6, 1, 1, 1])}, "operator Tile"),
    "an outer sum": (
        [_node("Add", "a", "b", out="c"), _node("Add", "x", "c")],
        {"a": np.zeros((2**16, 1), np.float32), "b": np.zeros((1, 2**16), np.float32)},
        "computes 4294967296 elements",
    ),
    "many large ones": (
        [_node("Add", "a", "b", out="t0"), *_chain("Relu", 9), _node("Add", "x", "t9")],
        {"a": np.zeros((2**14, 1), np.float32), "b": np.zeros((1, 2**14), np.float32)},
        "elements with 0 products",
    ),
    "pads": ([_node("Conv", "x", "w", **HUGE)], {"w": FLOATS["w"]}, "elements"),
    "pads of a pool": ([_node("MaxPool", "x", kernel_shape=[2, 2], **HUGE)], {}, "elements"),
    "a window": (
        [_node("MaxPool", "x", kernel_shape=[2**20, 2**20], pads=[2**20] * 4, strides=[2**10] * 2)], {},
        "products",
    ),
    "products": (
        [_node("MatMul", "a", "a", out="t0"), *_chain("MatMul", 9, "a"), _node("Add", "x", "t9")],
        {"a": np.zeros((2600, 2600), np.float32)}, "products on 1 images",
    ),
    "a shape that is computed": (
        [_node("Cast", "s", out="t", to=TensorProto.INT64), _node("Reshape", "x", "t")],
        {"s": np.array([1.0], np.float32)}, UNTOLD,
    ),
    "auto_pad": ([_node("Conv", "x", "w", auto_pad="SAME_UPPER")], {"w": FLOATS["w"]}, UNTOLD),
    "ceil_mode": ([_node("MaxPool", "x", kernel_shape=[2, 2], ceil_mode=1)], {}, UNTOLD),
    "negative pads": ([_node("Conv", "x", "w", pads=[-1] * 4)], {"w": FLOATS["w"]}, UNTOLD),
    "strides of zero": ([_node("Conv", "x", "w", strides=[0, 0])], {"w": FLOATS["w"]}, UNTOLD),
    "two outputs": (
        [helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], {}, UNTOLD,
    ),
    "no input": ([helper.make_node("Relu", [], ["y"])], {}, UNTOLD),
    "an unknown name": ([_node("Relu", "nobody")], {}, UNTOLD),
    "another size": ([_node("Reshape", "x", "s")], {"s": np.array([7, 7])}, UNTOLD),
    "two open sizes": ([_node("Reshape", "x", "s")], {"s": np.array([-1, -1])}, UNTOLD),
    "a negative size": ([_node("Reshape", "x", "s")], {"s": np.array([-2, -96])}, UNTOLD),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_exporter_writes_is_refused_before_it_runs(save: Save, name: str) -> None:
    nodes, stored, said = HOSTILE[name]
    path = save(_model(nodes, stored))
    with pytest.raises(ExportError, match=said):
        require_bounded(read(path))
    with pytest.raises(ExportError, match=said):
        OrtRunner(path)
    assert main([str(path)]) == ExportError.exit_code


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (), (0, 3, 8, 8), (-1, 3, 8, 8), ("n", 0, 8, 8)])
def test_inputs_of_unknown_size_are_refused(save: Save, shape: Any) -> None:
    with pytest.raises(ExportError, match="allowed: sizes from 1"):
        require_bounded(read(save(_model([_node("Relu", "x")], {}, shape))))


def test_images_that_are_multiplied_with_each_other_are_counted(make: Any, save: Save) -> None:
    """Elements that grow with the square of the batch: of one image they are one."""
    nodes = [
        _node("Flatten", "x", out="f"), _node("Transpose", "f", out="t"), _node("MatMul", "f", "t"),
    ]  # fmt: skip
    model = read(save(_model(nodes, {})))
    assert require_bounded(model, 64).computed == 2 * 64 * 192 + 64 * 64
    with pytest.raises(ExportError, match="elements"):
        require_bounded(model, 2**15)


def test_a_batch_is_made_smaller_rather_than_refused(
    make: Any, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8)).astype(np.uint8)
    path = save(make.qcdq())
    expected, one = OrtRunner(path).logits(images), require_bounded(read(path)).computed
    monkeypatch.setattr(operators, "MAX_COMPUTED", 2 * one)
    runner, sizes = OrtRunner(path), []
    run = runner._run

    def noted(some: Any, fixed: int | None) -> Any:
        sizes.append(len(some))
        return run(some, fixed)

    monkeypatch.setattr(runner, "_run", noted)
    np.testing.assert_allclose(runner.logits(images, batch=9), expected, atol=1e-6)
    assert max(sizes) == 2 and sum(sizes) == 10
    assert MAX_COMPUTED == 2**30 and MAX_PRODUCTS == 2**37
