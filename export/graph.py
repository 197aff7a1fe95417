"""Small edits of ONNX graphs that every format needs: nodes, initialisers, attributes, integer codes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float
from onnx import numpy_helper

QONNX_DOMAIN: Final = "qonnx.custom_op.general"


def read_from(graph: onnx.ModelProto, old: str, new: str) -> None:
    """Make every node that reads `old` read `new`."""
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def set_nodes(graph: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make these the nodes of the graph; they may be its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)


def make_standard(graph: onnx.ModelProto, replaced: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put nodes in the place of others, by name, and leave QONNX and what is unused behind."""
    set_nodes(graph, [new for node in graph.graph.node for new in replaced.get(node.name, [node])])
    kept = [entry for entry in graph.opset_import if entry.domain != QONNX_DOMAIN]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    drop_unused(graph)


def constant(graph: onnx.ModelProto, name: str, array: np.ndarray) -> str:
    """Name of an initialiser with this value, added where it is missing."""
    if all(t.name != name for t in graph.graph.initializer):
        graph.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def initializers(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """All initialisers as arrays."""
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


def set_initializer(graph: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Add or replace an initialiser."""
    tensor = numpy_helper.from_array(array, name)
    for known in graph.graph.initializer:
        if known.name == name:
            known.CopyFrom(tensor)
            return
    graph.graph.initializer.append(tensor)


def drop_unused(graph: onnx.ModelProto) -> None:
    """Remove initialisers that no node reads."""
    used = {name for node in graph.graph.node for name in node.input}
    kept = [t for t in graph.graph.initializer if t.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def code_range(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest integer code.

    >>> code_range(4, signed=True, narrow=True), code_range(4, signed=False, narrow=False)
    ((-7, 7), (0, 15))
    """
    if not signed:
        return 0, 2**bits - 1 - int(narrow)
    return -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1


def integer_codes(
    latent: Float[np.ndarray, "*w"], scale: Float[np.ndarray, "*s"], low: int, high: int
) -> np.ndarray:
    """Integer codes of a weight, int8 (2 to 8 bits fit), as the quantizer computes them.

    >>> integer_codes(np.float32([0.24, -0.26, 9.0]), np.array(0.1, np.float32), -7, 7).tolist()
    [2, -3, 7]
    """
    rounded = np.rint(latent.astype(np.float32) / scale.astype(np.float32))
    return np.clip(rounded, low, high).astype(np.int8)
