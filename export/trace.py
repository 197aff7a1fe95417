"""One trace of the network as a QONNX graph, cleaned of everything that does not belong in a file.

Both formats start here. What Brevitas exports carries the latent float weights in front of each `Quant`
node; `integer_weights` replaces them, and until it has run the graph must not be written anywhere.
"""

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnx import numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.models.layers import Classifier

OPSET: Final = 18
IR_VERSION: Final = 10
INPUT: Final = "image"
OUTPUT: Final = "logits"
QONNX_DOMAIN: Final = "qonnx.custom_op.general"


def trace(model: Classifier, size: int) -> onnx.ModelProto:
    """Trace `model` for square images of `size` pixels, with a dynamic batch.

    Args:
        model: Calibrated, on any device; put into evaluation mode.
        size: Image side in pixels.

    Returns:
        QONNX graph from float32 images 0..1 (N, c, size, size) to float32 logits (N, k). It still holds
        the latent weights.

    Raises:
        ExportError: The network has a layer that the exporter cannot express.
    """
    example = torch.zeros(2, model.shape.channels, size, size, device=next(model.parameters()).device)
    model.eval()
    buffer = io.BytesIO()
    try:
        _export_quietly(model, example, buffer)
    except Exception as error:  # the exporter raises a dozen unrelated types
        raise ExportError(f"the network cannot be exported: {_first_line(error)}") from error
    graph = onnx.load_from_string(buffer.getvalue())
    _strip(graph)
    _name_after_layers(graph, model)
    return graph


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _export_quietly(model: Classifier, example: torch.Tensor, buffer: io.BytesIO) -> None:
    from brevitas.export import export_qonnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        export_qonnx(
            model, args=(example,), export_path=buffer, dynamo=True, optimize=True, verbose=False,
            opset_version=OPSET, external_data=False, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip


def _strip(graph: onnx.ModelProto) -> None:
    """Remove traces of the machine and of the training: stack traces, paths, shapes of inner tensors."""
    graph.ir_version = IR_VERSION
    graph.producer_name = "qmu-edge"
    graph.producer_version = ""
    del graph.metadata_props[:]
    del graph.functions[:]
    del graph.graph.value_info[:]
    del graph.graph.metadata_props[:]  # the signature of the traced program, longer than a small network
    graph.graph.doc_string = graph.doc_string = ""
    graph.graph.name = "classifier"
    for number, node in enumerate(graph.graph.node):
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = f"{node.op_type}_{number}"
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def _name_after_layers(graph: onnx.ModelProto, model: Classifier) -> None:
    """Give each weight the name of its layer; the tracer calls them slice_1, slice_2 and so on."""
    owners = {p.detach().cpu().numpy().tobytes(): name for name, p in model.named_parameters()}
    taken: set[str] = set()
    for tensor in graph.graph.initializer:
        name = owners.get(numpy_helper.to_array(tensor).tobytes(), tensor.name)
        if len(tensor.dims) > 1 and name not in taken:
            rename(graph, tensor.name, name)
        taken.add(name)


def rename(graph: onnx.ModelProto, old: str, new: str) -> None:
    """Rename an initialiser and all its uses."""
    for tensor in graph.graph.initializer:
        if tensor.name == old:
            tensor.name = new
    read_from(graph, old, new)


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
    kept = [t for t in graph.graph.initializer if t.name != name]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])


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
