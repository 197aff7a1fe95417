"""Operators of integers, as onnxruntime's QOperator files have them, written with QuantizeLinear.

Such an operator reads codes with their scales and zero points, and gives codes. What it computes is the plain
operator between DequantizeLinear and QuantizeLinear; onnxruntime makes the one of the other while it loads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper

from qmu_edge.errors import ExportError
from qmu_edge.export.graph import constant, copied, drop_unused, initializers, set_nodes


@dataclass(frozen=True, slots=True)
class _Form:
    """How the inputs of an operator lie.

    Attributes:
        plain: The operator that computes the same on floats.
        codes: How many tensors of codes are read, each with its scale and its zero point.
        first: Whether scale and zero point of what comes out are named before everything else.
        bias: The place of a bias of integers; None without one.
    """

    plain: str
    codes: int = 1
    first: bool = False
    bias: int | None = None


FORMS: Final[Mapping[str, _Form]] = {
    "QLinearConv": _Form("Conv", 2, bias=8),
    "QLinearMatMul": _Form("MatMul", 2),
    "QGemm": _Form("Gemm", 2, bias=6),
    "QLinearAdd": _Form("Add", 2),
    "QLinearMul": _Form("Mul", 2),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool"),
    "QLinearAveragePool": _Form("AveragePool"),
    "QLinearLeakyRelu": _Form("LeakyRelu"),
    "QLinearSigmoid": _Form("Sigmoid"),
    "QLinearConcat": _Form("Concat", 0, first=True),
}
QOPERATORS: Final = "com.microsoft"
"""The domain of those that are none of ONNX's own; what is read back is written without them."""
_ATTRIBUTES: Final = frozenset({"channels_last"})  # that the plain ones do not have


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without operators of integers; the graph itself where it has none.

    Raises:
        ExportError: Images lie with their channels last, a bias is computed, or there is another operator of
            onnxruntime's own; the node is named.
    """
    for node in model.graph.node:
        if node.domain == QOPERATORS and node.op_type not in FORMS:
            name = node.name or node.output[0]
            raise ExportError(
                f"{node.op_type} {name!r}: an operator of onnxruntime's own, which is not known"
            )
    if all(node.op_type not in FORMS for node in model.graph.node):
        return model
    copy = copied(model)
    nodes: list[onnx.NodeProto] = []
    values = initializers(copy)
    for node in copy.graph.node:
        nodes += _expanded(copy, node, values) if node.op_type in FORMS else [node]
    set_nodes(copy, nodes)
    drop_unused(copy)
    return copy


def _expanded(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, np.ndarray]
) -> list[onnx.NodeProto]:
    form, given, name = FORMS[node.op_type], list(node.input), node.name or node.output[0]
    if any(a.name == "channels_last" and a.i for a in node.attribute):
        raise ExportError(f"{node.op_type} {name!r}: reads images whose channels come last")
    grid, rest = (given[:2], given[2:]) if form.first else ([], given)
    count = form.codes or len(rest) // 3
    made, inputs = [], []
    for number in range(count):
        x, scale, zero = rest[3 * number : 3 * number + 3]
        inputs.append(f"{name}.{number}.value")
        made.append(helper.make_node("DequantizeLinear", [x, scale, zero], [inputs[-1]], axis=_axis(node)))
    rest = rest[3 * count :]
    if form.bias == 6:  # before the grid of what comes out
        bias, rest = rest[:1], rest[1:]
    else:
        bias = rest[2:]
    grid = grid or rest[:2]
    if form.bias is not None and bias and bias[0]:
        inputs.append(_bias(model, node, bias[0], values))
    plain = helper.make_node(form.plain, inputs, [f"{name}.plain" if any(grid) else node.output[0]], name)
    plain.attribute.extend(a for a in node.attribute if a.name not in _ATTRIBUTES)
    made.append(plain)
    if any(grid):
        made.append(
            helper.make_node("QuantizeLinear", [plain.output[0], *grid], node.output, f"{name}.codes")
        )
    return made


def _axis(node: onnx.NodeProto) -> int:
    """Along which axis of a weight its scales lie, where there are several."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "QLinearConv" or transposed else 1


def _bias(model: onnx.ModelProto, node: onnx.NodeProto, bias: str, values: Mapping[str, np.ndarray]) -> str:
    """The values of a bias, whose step is the product of those of input and weight."""
    name = node.name or node.output[0]
    try:
        codes, x, w = (values[key] for key in (bias, node.input[1], node.input[4]))
    except KeyError as error:
        raise ExportError(f"{node.op_type} {name!r}: {error} is computed and not stored") from None
    real = codes.astype(np.float64) * (x.astype(np.float64) * w.astype(np.float64))
    return constant(model, f"{name}.bias", real.astype(np.float32))
