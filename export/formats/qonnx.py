"""QONNX: weights stored as code x scale with `Quant` nodes, for FINN, hls4ml and other compilers."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from qmu_edge.export.graph import attributes, copied, drop_unused, initializers, set_initializer
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One `Quant` node.

    Attributes:
        node: The node.
        weight: Name of the weight it quantizes, "" for an activation.
        scale: float32, () or per channel.
        bits: Width of a code, 2 to 8.
        signed: Whether codes are signed.
        low, high: Smallest and largest code; of activations, without the zero point.
        zero: The zero point of activations without a sign, which is the code of zero.
    """

    node: onnx.NodeProto
    weight: str
    scale: np.ndarray
    bits: int
    signed: bool
    low: int
    high: int
    zero: int = 0


def quantizers(graph: onnx.ModelProto) -> Iterator[Quantizer]:
    """All `Quant` nodes, in graph order."""
    values = initializers(graph)
    for node in graph.graph.node:
        if node.op_type != "Quant" or node.domain != QONNX_DOMAIN:
            continue
        x, scale, zero_point, bit_width = node.input
        flags = attributes(node)
        bits, signed = int(values[bit_width]), bool(flags["signed"])
        low, high = code_range(bits, signed=signed, narrow=bool(flags["narrow"]))
        zero = int(values[zero_point])
        weight = x if x in values else ""
        yield Quantizer(node, weight, values[scale], bits, signed, low - zero, high - zero, zero)


def clean(graph: onnx.ModelProto, *, batch: int | None, matmul: bool) -> onnx.ModelProto:
    """A copy for FINN and hls4ml: qonnx's own passes fix the batch size and infer all shapes.

    Its pass `cleanup_model` is not used: it renames all tensors, and the metadata refer to names of tensors.

    Args:
        graph: From `trace`; not changed.
        batch: Fixed batch size; None leaves the batch dynamic, and runs no pass.
        matmul: Whether Gemm becomes MatMul.
    """
    copy = copied(graph)
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
    """Store W transposed and multiply by it, in place; qonnx's own pass refuses a Gemm without bias."""
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


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """Cost of inference on one image.

    Attributes:
        bit_operations: Multiply-accumulates x weight bits x activation bits.
        weight_bits: Bits of all weights together.
        activation_bits: Bits of all tensors between layers together.
    """

    bit_operations: float
    weight_bits: float
    activation_bits: float


def inference_cost(data: bytes) -> InferenceCost:
    """Analyse a QONNX file with qonnx's own pass; takes up to half a minute."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.inference_cost import inference_cost as analyse

    graph = clean(onnx.load_from_string(data), batch=1, matmul=False)
    with contextlib.redirect_stdout(io.StringIO()):
        found = analyse(ModelWrapper(graph), discount_sparsity=False)
    total = found.get("total_cost", found)
    return InferenceCost(
        bit_operations=float(total["total_bops"]),
        weight_bits=float(total["total_mem_w_bits"]),
        activation_bits=float(total["total_mem_o_bits"]),
    )
