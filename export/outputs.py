"""Take outputs out of a network: the rows that compute them, and nothing else.

A file needs no output for a class that was deleted whole. Its row of weights, scales and biases goes from the
graph that every format is converted from, so that no format holds it; all other outputs are computed from the
same numbers as before.

From the output back to the last layers with weights, every node must leave the classes apart. Where one mixes
them, or where what would lose a class is read elsewhere, no output can be taken out, and the node is named.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx

from qmu_edge.errors import ExportError
from qmu_edge.export.graph import (
    LAYERS,
    OUTPUT,
    attributes,
    constant,
    drop_unused,
    initializers,
    set_initializer,
)

# Of each class alone: functions, sums and products, and means over space.
ALONE: Final = (
    "Add", "Mul", "Sub", "Relu", "Clip", "LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh",
    "Erf", "Cast", "Gather", "Quant", "MaxPool", "AveragePool", "ReduceMean", "Reshape",
)  # fmt: skip


def keep_outputs(graph: onnx.ModelProto, kept: Sequence[int]) -> None:
    """Take all outputs but these out of a graph, in place.

    Args:
        graph: From `trace`.
        kept: Numbers of the outputs that stay, in ascending order; at least one.

    Raises:
        ExportError: The network does not keep its classes apart up to its last layers with weights.
    """
    _Outputs(graph, kept).narrow()


class _Outputs:
    """A graph whose outputs are narrowed, node by node from its end.

    Attributes:
        graph: What is changed.
        kept: Numbers of the outputs that stay.
        classes: How many there were.
    """

    def __init__(self, graph: onnx.ModelProto, kept: Sequence[int]) -> None:
        self.graph, self.kept = graph, np.array(kept, np.int64)
        self.axis = graph.graph.output[0].type.tensor_type.shape.dim[1]
        self.classes = int(self.axis.dim_value)
        self.values = initializers(graph)
        self.made = {out: node for node in graph.graph.node for out in node.output}
        self.narrowed: set[str] = set()  # tensors and initializers
        self.changed: set[str] = set()  # nodes

    def narrow(self) -> None:
        """Narrow everything from the output back to the layers that compute it."""
        waiting = [OUTPUT]
        while waiting:
            name = waiting.pop()
            if name not in self.narrowed:
                self.narrowed.add(name)
                waiting += self._before(self.made.get(name), name)
        for node in self.graph.graph.node:
            if node.name not in self.changed and (lost := self.narrowed.intersection(node.input)):
                raise self._refused(f"{node.name} reads {min(lost)}, too")
        self.axis.dim_value = len(self.kept)
        drop_unused(self.graph)

    def _before(self, node: onnx.NodeProto | None, name: str) -> list[str]:
        """Narrow what a node reads of its own; returns the tensors that are to be narrowed next."""
        if node is None or node.op_type not in (*LAYERS, *ALONE):
            raise self._refused(f"{node.name if node else name} is {node.op_type if node else 'the image'}")
        self.changed.add(node.name)
        if node.op_type in LAYERS:
            return self._layer(node)
        if node.op_type == "Reshape":
            return self._view(node)
        if node.op_type in ("Add", "Mul", "Sub"):
            for each in node.input:
                self._take(each, axis=1)
            return [each for each in node.input if each not in self.values]
        return [each for each in node.input if each not in self.values]

    def _view(self, node: onnx.NodeProto) -> list[str]:
        """A view that moves no class to another place: all that is behind them has size 1."""
        sizes = self.values[node.input[1]].copy()
        if sizes[1] not in (-1, self.classes) or (sizes[2:] != 1).any():
            raise self._refused(f"{node.name} makes it {sizes.tolist()}")
        if sizes[1] == self.classes:
            sizes[1] = len(self.kept)
            node.input[1] = constant(self.graph, f"shape_{'_'.join(map(str, sizes))}", sizes)
        return [node.input[0]]

    def _layer(self, node: onnx.NodeProto) -> list[str]:
        """Narrow the rows of a layer; of one that leaves its channels apart, the input too."""
        quant = self.made.get(node.input[1])
        stored = [*(quant.input[:2] if quant else node.input[1:2]), *node.input[2:]]
        if len(self.values[stored[0]]) != self.classes:
            raise self._refused(f"{node.name} has {len(self.values[stored[0]])} rows")
        for each in stored:
            self._take(each, axis=0)
        self.changed.update({quant.name} if quant else set())
        group = attributes(node).get("group", 1)
        if group == 1:
            return []
        if group != self.classes:
            raise self._refused(f"{node.name} has {group} groups")
        next(a for a in node.attribute if a.name == "group").i = len(self.kept)
        return [node.input[0]]

    def _take(self, name: str, *, axis: int) -> None:
        """Narrow an initializer that has a value for each class."""
        array = self.values.get(name)
        if array is None or array.size == 1 or name in self.narrowed:
            return
        if array.ndim <= axis or array.shape[axis] != self.classes:
            raise self._refused(f"{name} is {array.shape}")
        self.narrowed.add(name)
        set_initializer(self.graph, name, np.ascontiguousarray(array.take(self.kept, axis)))

    def _refused(self, why: str) -> ExportError:
        return ExportError(
            f"no output of this network can be taken out: {why}; allowed from its last layers to its "
            f'{self.classes} outputs is what leaves the classes apart, or policy.deleted_class = "blank"'
        )
