"""Edits of graphs, on a graph of two nodes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qmu_edge.export.graph import (
    attributes,
    constant,
    copied,
    drop_unused,
    initializers,
    integer_codes,
    make_standard,
    read_from,
    set_initializer,
    set_nodes,
)
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Y = x + one, then y * one; and an initializer that nobody reads."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["sum"], "add"),
        helper.make_node("Mul", ["sum", "one"], ["y"], "mul"),
    ]
    values = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y"))
    image, logits = values
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(QONNX_DOMAIN, 2)]
    made = helper.make_model(helper.make_graph(nodes, "g", [image], [logits]), opset_imports=opsets)
    set_initializer(made, "one", np.ones((), np.float32))
    set_initializer(made, "unread", np.zeros(3, np.int8))
    return made


def test_a_copy_is_equal_and_its_own(graph: onnx.ModelProto) -> None:
    copy = copied(graph)
    assert copy == graph
    copy.graph.node[0].name = "other"
    assert graph.graph.node[0].name == "add"


def test_every_reader_reads_the_new_name(graph: onnx.ModelProto) -> None:
    read_from(graph, "one", "two")
    assert [list(node.input) for node in graph.graph.node] == [["x", "two"], ["sum", "two"]]


def test_nodes_are_replaced_also_by_their_own(graph: onnx.ModelProto) -> None:
    set_nodes(graph, [*graph.graph.node, helper.make_node("Relu", ["y"], ["z"], "relu")])
    assert [node.name for node in graph.graph.node] == ["add", "mul", "relu"]


def test_a_standard_graph_has_the_new_nodes_and_no_qonnx(graph: onnx.ModelProto) -> None:
    new = [helper.make_node("Neg", ["x"], ["n"], "neg"), helper.make_node("Abs", ["n"], ["sum"], "abs")]
    make_standard(graph, {"add": new, "none of its": []})
    assert [node.name for node in graph.graph.node] == ["neg", "abs", "mul"]
    assert [entry.domain for entry in graph.opset_import] == [""]
    assert set(initializers(graph)) == {"one"}


def test_a_constant_is_stored_once_and_kept(graph: onnx.ModelProto) -> None:
    assert constant(graph, "two", np.array([2], np.float32)) == "two"
    assert constant(graph, "two", np.array([3], np.float32)) == "two"
    assert initializers(graph)["two"].tolist() == [2.0]


def test_an_initializer_is_set_in_its_place(graph: onnx.ModelProto) -> None:
    set_initializer(graph, "one", np.array([5], np.int32))
    assert [t.name for t in graph.graph.initializer] == ["one", "unread"]
    assert initializers(graph)["one"].dtype == np.int32


def test_only_what_nobody_reads_is_dropped(graph: onnx.ModelProto) -> None:
    drop_unused(graph)
    assert set(initializers(graph)) == {"one"}


def test_attributes_are_python_values() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 2], auto_pad="NOTSET")
    assert attributes(node) == {"group": 2, "pads": [1, 2], "auto_pad": b"NOTSET"}


def test_codes_are_rounded_half_to_even_and_clipped() -> None:
    codes = integer_codes(np.array([0.5, 1.5, -0.5, 99, -99], np.float32), np.array([1], np.float32), -8, 7)
    assert codes.dtype == np.int8 and codes.tolist() == [0, 2, 0, 7, -8]
