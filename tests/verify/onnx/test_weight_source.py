"""The walk from a layer back to its stored weight."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.onnx.weight_source import Names, is_quant, names_of
from tests.verify import files


def names(folder: Path, model: onnx.ModelProto) -> Names:
    """Who defines what in a model."""
    return names_of(read(files.write(folder / "model.onnx", model)).graph)


def test_a_weight_is_found_behind_its_quantizer(tmp_path: Path) -> None:
    for model, op_type in ((files.qcdq(), "DequantizeLinear"), (files.qonnx(), "Quant")):
        found = names(tmp_path, model)
        traced = found.trace("w1")
        assert traced.root is found.tensors["conv.w"] and traced.name == "conv.w" and not traced.stopped
        (step,) = traced.steps
        assert step.op_type == op_type and is_quant(step) is (op_type == "Quant")
        scale = found.scale(step)
        assert scale is not None and scale.reshape(-1).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_what_flows_in_is_no_weight(tmp_path: Path) -> None:
    found = names(tmp_path, files.qcdq())
    assert {"x", "c", "r", "p", "f", "y"} == found.dynamic
    assert found.trace("x").stopped == "'x' leads to no stored values"
    assert "cannot be checked" in found.trace("c").stopped


def test_of_a_product_the_integers_are_the_weight_or_else_the_larger_one(tmp_path: Path) -> None:
    model = files.qcdq()
    model.graph.node[1].CopyFrom(helper.make_node("Mul", ["s2", "fc.float"], ["w2"]))
    model.graph.node.insert(0, helper.make_node("Cast", ["fc.w"], ["fc.float"], to=onnx.TensorProto.FLOAT))
    found = names(tmp_path, model)
    traced = found.trace("w2")
    assert [step.op_type for step in traced.steps] == ["Mul", "Cast"] and traced.name == "fc.w"
    assert found.weight_side(traced.steps[0]) == "fc.float"
    files.replace(model, "s2", np.ones((6, 5, 4), np.float32))  # a scale for each weight hides nothing
    assert names(tmp_path, model).trace("w2").name == "fc.w"
    files.replace(model, "fc.w", np.ones((5, 4), np.float32))
    files.replace(model, "s2", np.ones((1, 4), np.float32))
    assert names(tmp_path, model).trace("w2").name == "fc.w"


def test_a_chain_without_end_is_left(tmp_path: Path) -> None:
    model = files.qcdq()
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["v40"], ["w1"]))
    for i in range(40, 0, -1):
        model.graph.node.insert(0, helper.make_node("Identity", [f"v{i - 1}"], [f"v{i}"]))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["conv.w", "s1", "z1"], ["v0"], axis=0))
    traced = names(tmp_path, model).trace("w1")
    assert traced.root is None and len(traced.steps) == 32


def test_constants_are_read_behind_identity(tmp_path: Path) -> None:
    model = files.qcdq()
    model.graph.node[1].input[1] = "same"
    model.graph.node.insert(0, helper.make_node("Identity", ["s2"], ["same"]))
    found = names(tmp_path, model)
    value = found.constant("same")
    assert value is not None and float(value) == pytest.approx(0.05)
    assert found.constant("x") is None and found.constant("nobody") is None
