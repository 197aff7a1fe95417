"""QCDQ: standard ONNX with integer codes as initializers, and quantize-clip-dequantize on activations.

It runs in any ONNX runtime. A weight is an int8 initializer with a DequantizeLinear, whatever its width:
codes of 4 bits lie within -7..7 and take a byte each. Activations below 8 bits get a Clip on the integers.
"""

import numpy as np
import onnx
from onnx import helper

from qmu_edge.export.formats.qonnx import Quantizer, quantizers
from qmu_edge.export.graph import (
    constant,
    copied,
    initializers,
    integer_codes,
    make_standard,
    set_initializer,
)


def to_qcdq(qonnx_graph: onnx.ModelProto) -> onnx.ModelProto:
    """A standard ONNX graph that computes what the QONNX graph does.

    Args:
        qonnx_graph: From `trace`; not changed.
    """
    graph = copied(qonnx_graph)
    values = initializers(graph)
    multiplied = {node.input[1] for node in graph.graph.node if node.op_type == "Gemm"}
    replaced = {
        q.node.name: _weight(graph, q, values[q.weight], zeros=q.node.output[0] in multiplied)
        if q.weight
        else _activation(graph, q)
        for q in list(quantizers(graph))
    }
    make_standard(graph, replaced)
    return graph


def _weight(
    graph: onnx.ModelProto, q: Quantizer, dequantized: np.ndarray, *, zeros: bool
) -> list[onnx.NodeProto]:
    """Codes; with `zeros` a zero point for each scale, which older onnxruntimes want for a Gemm."""
    codes = integer_codes(dequantized, q.scale, q.low, q.high)
    set_initializer(graph, q.weight, codes)
    set_initializer(graph, f"{q.weight}.scale", q.scale.reshape(-1 if q.scale.size > 1 else ()))
    inputs = [q.weight, f"{q.weight}.scale"]
    if zeros:
        inputs.append(constant(graph, f"{q.weight}.zero", np.zeros(q.scale.size, np.int8)))
    return [helper.make_node("DequantizeLinear", inputs, q.node.output, f"{q.node.name}_dq", axis=0)]


def _activation(graph: onnx.ModelProto, q: Quantizer) -> list[onnx.NodeProto]:
    name, dtype = q.node.name, np.int8 if q.signed else np.uint8
    zero = constant(graph, f"zero_{q.zero or ''}{dtype.__name__}", np.array(q.zero, dtype))
    limits = (q.low + q.zero, q.high + q.zero)
    scale = constant(graph, f"{name}.scale", q.scale.reshape(()).astype(np.float32))
    codes = f"{name}.codes"
    nodes = [helper.make_node("QuantizeLinear", [q.node.input[0], scale, zero], [codes], f"{name}_q")]
    if limits != (np.iinfo(dtype).min, np.iinfo(dtype).max):
        low, high = (constant(graph, f"{v}_{dtype.__name__}", np.array(v, dtype)) for v in limits)
        clipped = f"{name}.clipped"
        nodes.append(helper.make_node("Clip", [codes, low, high], [clipped], f"{name}_clip"))
        codes = clipped
    nodes.append(helper.make_node("DequantizeLinear", [codes, scale, zero], q.node.output, f"{name}_dq"))
    return nodes
