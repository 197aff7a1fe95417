"""Edits of ONNX graphs for all formats: nodes, initializers, attributes, integer codes."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import onnx
from jaxtyping import Float
from onnx import numpy_helper

from qmu_edge.verify.onnx.graph import QONNX_DOMAIN

INPUT: Final = "image"  # name of the one input of every graph
OUTPUT: Final = "logits"
LAYERS: Final = ("Conv", "Gemm")  # that the trace writes
LARGEST: Final = float(np.finfo(np.float32).max)
# Compute the same on codes as on values; a Pad with the code of zero.
ON_CODES: Final = ("Reshape", "MaxPool", "Transpose", "Slice", "Pad", "Resize")


def copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that may be edited."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def read_from(graph: onnx.ModelProto, old: str, new: str) -> None:
    """Replace the input `old` of all nodes by `new`."""
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def set_nodes(graph: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of the graph; the new ones may be among the old ones."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)


def make_standard(graph: onnx.ModelProto, replaced: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Turn a QONNX graph into a standard ONNX graph, in place, and remove unused initializers.

    Args:
        graph: Graph whose `Quant` nodes are all in `replaced`.
        replaced: New nodes, by the name of the node that they replace; an empty list removes it.
    """
    set_nodes(graph, [new for node in graph.graph.node for new in replaced.get(node.name, [node])])
    kept = [entry for entry in graph.opset_import if entry.domain != QONNX_DOMAIN]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    drop_unused(graph)


def constant(graph: onnx.ModelProto, name: str, array: np.ndarray) -> str:
    """Name of an initializer with this value, added where it is missing."""
    if all(t.name != name for t in graph.graph.initializer):
        graph.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def initializers(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """All initializers as arrays."""
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


def image_inputs(graph: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that somebody has to give; older files list their initializers among them."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    return [value for value in graph.graph.input if value.name not in stored]


def set_initializer(graph: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Add or replace an initializer."""
    tensor = numpy_helper.from_array(array, name)
    for known in graph.graph.initializer:
        if known.name == name:
            known.CopyFrom(tensor)
            return
    graph.graph.initializer.append(tensor)


def drop_unused(graph: onnx.ModelProto) -> None:
    """Remove initializers that no node reads."""
    used = {name for node in graph.graph.node for name in node.input}
    kept = [t for t in graph.graph.initializer if t.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Attributes of a node as Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def integer_codes(
    latent: Float[np.ndarray, "*w"], scale: Float[np.ndarray, "*s"], low: int, high: int
) -> np.ndarray:
    """Integer codes of a weight, int8 (2 to 8 bits fit), as the quantizer computes them.

    Args:
        latent: The weight, or code x scale.
        scale: Broadcasts to it.
        low: Smallest code, see `code_range`.
        high: Largest code.

    >>> integer_codes(np.float32([0.24, -0.26, 9.0]), np.array(0.1, np.float32), -7, 7).tolist()
    [2, -3, 7]
    """
    rounded = np.rint(latent.astype(np.float32) / scale.astype(np.float32))
    return np.clip(rounded, low, high).astype(np.int8)
