"""The network as a QONNX graph: standard operators, and `Quant` nodes where Brevitas quantizes.

Every format is converted from this graph. torch.fx traces the network's `forward`, and for each kind of call
`layers.py` appends the nodes. So the graph holds no information about machine or training: weights are stored
as code x scale, never as latent floats. A layer that is not known there is refused, and the error names it.
"""

from typing import Final

import onnx
import torch
from onnx import TensorProto, helper
from torch import fx, nn

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.graph import INPUT, OUTPUT
from qmu_edge.export.layers import FUNCTIONS, MODULES, WITH_QUANTIZER
from qmu_edge.export.writer import EXAMPLES, Writer
from qmu_edge.models.follow import follow, module_of, stored, tensors_in, values
from qmu_edge.models.kinds import quantizes
from qmu_edge.models.layers import Classifier
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN

OPSET: Final = 18
QONNX_OPSET: Final = 2
IR_VERSION: Final = 10


def trace(model: Classifier, size: int) -> onnx.ModelProto:
    """Write `model` as a graph for square images of `size` pixels, with a dynamic batch.

    Args:
        model: In deploy form, in evaluation mode, on the CPU.
        size: Image side in pixels.

    Returns:
        QONNX graph from float32 images 0..1 (N, c, size, size) to float32 logits (N, k).

    Raises:
        ExportError: The network has a layer or a quantizer that no format can express; it is named.
    """
    graph = _empty(model, size)
    try:
        traced = follow(model)
        found = values(model, traced, torch.zeros(EXAMPLES, model.shape.channels, size, size))
    except ConfigError as error:
        raise ExportError(str(error)) from error
    _write(Writer(graph, found), model, traced)
    return graph


def _empty(model: Classifier, size: int) -> onnx.ModelProto:
    """A graph with input and output, and no nodes yet."""
    shapes = (("N", model.shape.channels, size, size), ("N", model.shape.classes))
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip((INPUT, OUTPUT), shapes, strict=True)
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX_DOMAIN, QONNX_OPSET)]
    return helper.make_model(
        helper.make_graph([], "classifier", [image], [logits]),
        opset_imports=opsets, ir_version=IR_VERSION, producer_name="qmu-edge",
    )  # fmt: skip


def _write(w: Writer, model: nn.Module, traced: fx.Graph) -> None:
    """Write every call in order; the last tensor gets the output's name."""
    tensors: dict[fx.Node, str] = {}
    known = stored(traced)
    for node in traced.nodes:
        if node.op == "placeholder":
            tensors[node] = INPUT
        elif node.op == "output":
            w.graph.graph.node[-1].output[0] = OUTPUT
        elif node in known:
            if not known.issuperset(node.users):  # of whatever meets others, its values on their grid
                (reader, *others) = node.users
                value = w.found[reader if quantizes(module_of(model, reader)) and not others else node]
                tensors[node] = w.constant(str(node.target) if node.op == "get_attr" else node.name, value)
        elif tensors_in(w.found[node]):
            inputs = [tensors[x] for x in node.all_input_nodes if x in tensors]
            tensors[node] = _called(w, node, module_of(model, node), inputs)


def _called(w: Writer, node: fx.Node, module: nn.Module | None, inputs: list[str]) -> str:
    if module is None:
        if node.op == "get_attr" or node.target not in FUNCTIONS:
            raise ExportError(f"{node.name}: the exporter has no {node.target}; see qmu_edge.export.layers")
        return FUNCTIONS[node.target](w, node, inputs)
    name = str(node.target)
    known = next((kind for kind in type(module).__mro__ if kind in MODULES), None)
    if known is None or (known in WITH_QUANTIZER and not hasattr(module, "weight_quant")):
        raise ExportError(
            f"{name}: a layer {type(module).__name__} cannot be exported; "
            f"allowed are {', '.join(sorted(m.__name__ for m in MODULES))}"
        )
    return MODULES[known](w, node, inputs[0], module)
