"""QONNX: `Quant` nodes with code x scale in front of them, for FINN, hls4ml and other compilers."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from qmu_edge.export.graph import (
    QONNX_DOMAIN,
    attributes,
    code_range,
    drop_unused,
    initializers,
    set_initializer,
)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One `Quant` node.

    Attributes:
        node: The node.
        weight: Name of the weight it quantizes, "" for an activation.
        scale: float32, () or per channel.
        bits: 2 to 8.
        signed: Whether codes are signed.
        low, high: Range of codes.
    """

    node: onnx.NodeProto
    weight: str
    scale: np.ndarray
    bits: int
    signed: bool
    low: int
    high: int


def quantizers(graph: onnx.ModelProto) -> Iterator[Quantizer]:
    """All `Quant` nodes, in graph order."""
    values = initializers(graph)
    for node in graph.graph.node:
        if node.op_type != "Quant" or node.domain != QONNX_DOMAIN:
            continue
        x, scale, _, bit_width = node.input
        flags = attributes(node)
        bits, signed = int(values[bit_width]), bool(flags["signed"])
        low, high = code_range(bits, signed=signed, narrow=bool(flags["narrow"]))
        yield Quantizer(node, x if x in values else "", values[scale], bits, signed, low, high)


def clean(graph: onnx.ModelProto, *, batch: int | None, matmul: bool) -> onnx.ModelProto:
    """A copy as FINN and hls4ml want it where the batch is fixed: every shape known, by qonnx's own passes.

    Not by its `cleanup_model`, which also renames all tensors, so that metadata would name others.

    Args:
        graph: From `trace`; left as it is.
        batch: Fixed batch size; None leaves the graph dynamic and as it is.
        matmul: Whether Gemm becomes MatMul.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    if batch is None:
        return copy
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.general import RemoveStaticGraphInputs, RemoveUnusedTensors, SortGraph
    from qonnx.transformation.infer_shapes import InferShapes

    if matmul:
        _gemm_to_matmul(copy)
    wrapped = ModelWrapper(copy)
    for each in (
        ChangeBatchSize(batch), InferShapes(), RemoveUnusedTensors(), RemoveStaticGraphInputs(), SortGraph(),
    ):  # fmt: skip
        wrapped = wrapped.transform(each)
    cleaned: onnx.ModelProto = wrapped.model
    return cleaned


def _gemm_to_matmul(graph: onnx.ModelProto) -> None:
    """Store W transposed and multiply by it, in place; qonnx's own pass wants a bias, which ours has not."""
    values = initializers(graph)
    by_output = {q.node.output[0]: q for q in quantizers(graph)}
    for node in graph.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 2 and node.input[1] in by_output:
            q = by_output[node.input[1]]
            scale = f"{q.weight}.scale"
            set_initializer(graph, q.weight, np.ascontiguousarray(values[q.weight].T))
            set_initializer(graph, scale, np.ascontiguousarray(q.scale.T) if q.scale.ndim > 1 else q.scale)
            q.node.input[1] = scale
            node.op_type = "MatMul"
            del node.attribute[:]
    drop_unused(graph)


def inference_cost(data: bytes) -> dict[str, float]:
    """What one image costs, by qonnx's own analysis of a QONNX file; takes up to half a minute.

    Returns:
        `bit_operations` (multiply-accumulates x weight bits x activation bits), `weight_bits` in all, and
        `activation_bits` of all tensors between layers.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.inference_cost import inference_cost as analyse

    graph = clean(onnx.load_from_string(data), batch=1, matmul=False)
    with contextlib.redirect_stdout(io.StringIO()):
        found = analyse(ModelWrapper(graph), discount_sparsity=False)
    total = found.get("total_cost", found)
    return {
        "bit_operations": float(total["total_bops"]),
        "weight_bits": float(total["total_mem_w_bits"]),
        "activation_bits": float(total["total_mem_o_bits"]),
    }
