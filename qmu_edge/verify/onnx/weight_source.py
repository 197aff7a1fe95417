"""Where a weight comes from: the walk from a layer back to the tensor stored in the file.

Only operators that move, convert or scale values are walked through; anything else stops the walk,
and the gate then refuses the file rather than guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.verify.onnx.graph import QONNX_DOMAIN, Graph, Node, Tensor

_PASSED: Final = frozenset(
    {
        "Identity",
        "Cast",
        "Clip",
        "Transpose",
        "Reshape",
        "Mul",
        "DequantizeLinear",
        "QuantizeLinear",
    }
)
_MAX_STEPS: Final = 32


@dataclass(frozen=True, slots=True)
class Trace:
    """The operators between a layer and its stored weight.

    Attributes:
        root: The stored tensor; None when the walk was stopped.
        name: Its name; a Constant node's tensor goes by the node's output.
        steps: The operators passed, `steps[0]` next to the layer.
        stopped: Why there is no root.
    """

    root: Tensor | None
    name: str
    steps: tuple[Node, ...] = ()
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """Who defines each name of a file.

    Attributes:
        tensors: Stored tensors.
        producers: The node whose output the name is.
        dynamic: Names whose values depend on the input of the file.
    """

    tensors: Mapping[str, Tensor]
    producers: Mapping[str, Node]
    dynamic: frozenset[str]

    def trace(self, name: str) -> Trace:
        """Walk back through operators that only move, convert or scale."""
        steps: list[Node] = []
        while name not in self.tensors:
            node = self.producers.get(name)
            if node is None or len(steps) == _MAX_STEPS:
                return Trace(None, name, tuple(steps), f"{name!r} leads to no stored values")
            steps.append(node)
            if not (is_quant(node) or node.op_type in _PASSED) or not node.inputs:
                return Trace(None, name, tuple(steps), f"{node.label} cannot be checked")
            name = self.weight_side(node)
        return Trace(self.tensors[name], name, tuple(steps))

    def weight_side(self, node: Node) -> str:
        """Name the input that carries the weight.

        Of a product that is the factor that a node computes, else stored integers, else the larger tensor.
        """
        if node.op_type != "Mul":
            return node.inputs[0]

        def weight_like(name: str) -> tuple[bool, float]:
            tensor = self._stored(name)
            if tensor is None:
                return True, np.inf
            return not tensor.element.is_float, float(tensor.elements)

        return max(node.inputs, key=weight_like)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Read a stored tensor, behind Identity or Cast if need be; None when there is none."""
        tensor = self._stored(name)
        return None if tensor is None else tensor.array()

    def _stored(self, name: str) -> Tensor | None:
        for _ in range(_MAX_STEPS):
            node = self.producers.get(name)
            if name in self.tensors or node is None or node.op_type not in ("Identity", "Cast"):
                break
            name = node.inputs[0] if node.inputs else ""
        return self.tensors.get(name)

    def scale(self, node: Node) -> NDArray[Any] | None:
        """Read the scale of a Mul, Quant or DequantizeLinear; None when it is not stored."""
        side = self.weight_side(node)
        others = [name for name in node.inputs if name != side]
        return self.constant(others[0]) if others else None


def is_quant(node: Node) -> bool:
    """Tell whether a node is the QONNX quantizer."""
    return node.op_type == "Quant" and node.domain == QONNX_DOMAIN


def names_of(graph: Graph) -> Names:
    """Collect who defines what, over a graph and its subgraphs."""
    tensors: dict[str, Tensor] = {}
    producers: dict[str, Node] = {}
    readers: dict[str, list[Node]] = {}
    for each in graph.walk():
        tensors |= each.initializers
        for node in each.nodes:
            values = node.attributes.get("value") if node.op_type == "Constant" else None
            if values and values.tensors and node.outputs:
                tensors[node.outputs[0]] = values.tensors[0]
            producers |= dict.fromkeys(node.outputs, node)
            for name in _reads(node):
                readers.setdefault(name, []).append(node)
    todo = [value.name for value in graph.inputs if value.name not in tensors]
    dynamic: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in dynamic:
            dynamic.add(name)
            todo += (output for node in readers.get(name, ()) for output in node.outputs)
    return Names(tensors, producers, frozenset(dynamic))


def _reads(node: Node) -> set[str]:
    """Names a node reads, those of its subgraphs included."""
    inner = (name for g in node.graphs() for each in g.walk() for n in each.nodes for name in n.inputs)
    return {*node.inputs, *inner}
