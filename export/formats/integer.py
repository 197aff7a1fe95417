"""Integer: a standard ONNX graph whose layers onnxruntime runs as integer kernels, its fastest form.

A runtime fuses DequantizeLinear - Conv - QuantizeLinear to one integer kernel when there is no node between
them. So bias and scale of the deploy form move into the layer: the bias becomes int32 on the grid
input step x weight step, the scale is multiplied into the weight's scale. Both are exact.

    activations   uint8 whatever their width; signed ones carry the zero point 128, because onnxruntime has no
                  fast kernels for int8 activations, and mixing both stops fusion
    weights       int8, symmetric, one scale per output channel, zero point 0
    biases        int32, scale = input scale x weight scale, zero point 0
    below 8 bits  the same types; a Clip limits activations to the narrower grid: after QuantizeLinear, on
                  codes, where onnxruntime's integer kernels end, or before it, on values, which OpenVINO's
                  kernels include
    float inputs  of a layer leave its bias float; the layer runs in float with dequantized weights
    float output  of a layer (the head's): the gain follows the layer, one multiplication of exact sums
    sums          of two tensors, and means, read scales times 1 - 2^-12, where the deploy form multiplies
                  what comes out
    moved         views, slices, pooling by the largest and the like are done on codes
    functions     of a quantized tensor are tables: every code is the place of another one
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from qmu_edge.errors import ExportError
from qmu_edge.export.formats.qonnx import Quantizer, quantizers
from qmu_edge.export.graph import (
    LAYERS,
    ON_CODES,
    attributes,
    constant,
    copied,
    initializers,
    integer_codes,
    make_standard,
    set_initializer,
)

SUMS = ("Add", "ReduceMean")
SIGNED_ZERO = 128


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer with a quantized weight, and the Add and Mul of the deploy form after it."""

    node: onnx.NodeProto
    weight: Quantizer
    add: onnx.NodeProto
    mul: onnx.NodeProto


class _Graph:
    """A graph, with the node that writes and the nodes that read each of its tensors."""

    def __init__(self, model: onnx.ModelProto, *, zero_points: bool, clip_values: bool) -> None:
        self.model = model
        self.zero_points = zero_points
        self.clip_values = clip_values
        self.values = initializers(model)
        self.made = {out: node for node in model.graph.node for out in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.quantizers = {q.node.output[0]: q for q in quantizers(model)}
        self.factors = {n.name: m for n in model.graph.node if (m := self._factor(n)) is not None}
        gathers = [node for node in model.graph.node if node.op_type == "Gather"]
        self.lookups = {n.output[0]: n for n in gathers if self.grid(self.lookup(n)[0].input[0])}
        self.looked = {self.lookup(gather)[0].name for gather in self.lookups.values()}
        self.codes: dict[str, str] = {}  # of tensors on a grid that were written already

    def next(self, node: onnx.NodeProto, op_type: str) -> onnx.NodeProto:
        """The only reader of a node, which must be an `op_type` with a constant."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != op_type or readers[0].input[1] not in self.values:
            raise ExportError(f"{node.name}: not followed by a constant {op_type}; is this the deploy form?")
        return readers[0]

    def grid(self, name: str) -> Quantizer | None:
        """The activation quantizer whose codes a tensor stands for; None for a float tensor."""
        while name in self.made and self.made[name].op_type in ON_CODES:
            name = self.made[name].input[0]
        return self.quantizers.get(name)

    def zero(self, q: Quantizer) -> int:
        """The code of zero: the zero point of activations."""
        if not self.zero_points:
            return 0
        return SIGNED_ZERO if q.signed else q.zero

    def is_quantized(self, name: str) -> bool:
        """Whether a quantizer is the only reader of a tensor, directly or after a rectifier."""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == "Relu":
            return self.is_quantized(readers[0].output[0])
        return len(readers) == 1 and readers[0].op_type == "Quant"

    def _factor(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The constant Mul that alone reads a sum of codes; None for any other node."""
        operands = [name for name in node.input if name not in self.values]
        readers = self.readers.get(node.output[0], [])
        if node.op_type not in SUMS or not all(map(self.grid, operands)) or len(readers) != 1:
            return None
        return readers[0] if readers[0].op_type == "Mul" and readers[0].input[1] in self.values else None

    def lookup(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that find the place of a code and read the table there, the first one first."""
        place = self.made[node.input[1]]
        raised = self.made[place.input[0]]
        return [self.made[raised.input[0]], raised, place, node]

    def layers(self) -> list[_Layer]:
        """All layers with a quantized weight."""
        found = []
        for node in self.model.graph.node:
            if node.op_type in LAYERS and node.input[1] in self.quantizers:
                add = self.next(node, "Add")
                found.append(_Layer(node, self.quantizers[node.input[1]], add, self.next(add, "Mul")))
        return found


def to_integer(
    qonnx_graph: onnx.ModelProto, *, zero_points: bool = True, clip_values: bool = False
) -> onnx.ModelProto:
    """A standard graph of integer layers that computes what the QONNX graph does.

    Args:
        qonnx_graph: Graph of the deploy form, from `trace`; not changed.
        zero_points: Activations are uint8, signed ones with zero point 128. Otherwise they are int8 without a
            zero point, and biases stay float, as TensorRT requires.
        clip_values: Activations below 8 bits are clipped before they are quantized, and not as codes.

    Raises:
        ExportError: A layer is not in deploy form, a bias does not fit int32, or unsigned activations of 8
            bits would have to become int8.
    """
    model = copied(qonnx_graph)
    graph = _Graph(model, zero_points=zero_points, clip_values=clip_values)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for layer in graph.layers():
        replaced[layer.weight.node.name] = []
        replaced[layer.add.name] = []
        _integer_layer(graph, layer, replaced)
    for gather in graph.lookups.values():
        replaced |= {node.name: [] for node in graph.lookup(gather)}
    for node in model.graph.node:
        q = graph.quantizers.get(node.output[0])
        if q is not None and not q.weight:
            replaced[node.name] = _activation(graph, q)
        elif q is not None and node.name not in replaced:
            replaced[node.name] = _stored(graph, q)
        elif node.op_type in ON_CODES and node.input[0] in graph.codes:
            replaced[node.name] = _moved(graph, node)
    for node in model.graph.node:
        if node.op_type in SUMS and node.name not in replaced:  # and is no bias
            replaced[node.name] = [_sum(graph, node, replaced)]
    make_standard(model, replaced)
    return model


def _sum(graph: _Graph, node: onnx.NodeProto, replaced: dict[str, list[onnx.NodeProto]]) -> onnx.NodeProto:
    """An addition or a mean; where a factor follows, it reads operands that were multiplied already."""
    inputs, output = [x for x in node.input if x not in graph.values], node.output
    if factor := graph.factors.get(node.name):
        inputs, output = [f"{x}.below" for x in inputs], factor.output
        replaced[factor.name] = []
    if node.op_type == "ReduceMean" and _over_space(node, graph.values):
        return helper.make_node("GlobalAveragePool", inputs, output, node.name)
    made = helper.make_node(node.op_type, [*inputs, *node.input[len(inputs) :]], output, node.name)
    made.attribute.extend(node.attribute)
    return made


def _integer_layer(graph: _Graph, layer: _Layer, replaced: dict[str, list[onnx.NodeProto]]) -> None:
    """Move the bias into a layer, and the gain into the weight's scale where a quantizer follows."""
    name, weight, values = layer.weight.weight, layer.weight, graph.values
    codes = integer_codes(values[name], weight.scale, weight.low, weight.high)
    step, gain, bias = (
        np.broadcast_to(v.reshape(-1), codes.shape[0]).astype(np.float64)
        for v in (weight.scale, values[layer.mul.input[1]], values[layer.add.input[1]])
    )
    grid = graph.grid(layer.node.input[0])
    output = layer.add.output
    if grid is None or graph.is_quantized(layer.mul.output[0]):
        step, bias, output = step * gain, bias * gain, layer.mul.output
        replaced[layer.mul.name] = []
    scale = step.astype(np.float32)
    set_initializer(graph.model, name, codes)
    set_initializer(graph.model, f"{name}.scale", scale)
    inputs = [name, f"{name}.scale"]
    if layer.node.op_type == "Gemm":  # onnxruntime's integer kernel requires the attribute
        inputs.append(constant(graph.model, f"{name}.zero", np.zeros(len(codes), np.int8)))
    made = [helper.make_node("DequantizeLinear", inputs, weight.node.output, axis=0)]
    if grid is None:
        made = _float_weight(graph, name, scale.reshape(-1, *(1,) * (codes.ndim - 1)), weight.node.output[0])
    bias_name = f"{name.removesuffix('.weight')}.bias"
    made += _bias(graph, bias_name, bias, scale, grid)
    inputs = [layer.node.input[0], weight.node.output[0], f"{bias_name}.value"]
    node = helper.make_node(layer.node.op_type, inputs, output, layer.node.name)
    node.attribute.extend(layer.node.attribute)
    replaced[layer.node.name] = [*made, node]


def _float_weight(graph: _Graph, name: str, scale: np.ndarray, output: str) -> list[onnx.NodeProto]:
    """Dequantize a weight by Cast and Mul, which runtimes fold at load; DequantizeLinear runs every time."""
    set_initializer(graph.model, f"{name}.scale", scale)
    cast = helper.make_node("Cast", [name], [f"{name}.float"], to=onnx.TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [output])]


def _bias(
    graph: _Graph, name: str, bias: np.ndarray, scale: np.ndarray, grid: Quantizer | None
) -> list[onnx.NodeProto]:
    if grid is None or not graph.zero_points:
        set_initializer(graph.model, f"{name}.value", bias.astype(np.float32))
        return []
    unit = grid.scale.reshape(()) * scale
    set_initializer(graph.model, name, _int32(np.rint(bias / unit.astype(np.float64)), name))
    set_initializer(graph.model, f"{name}.scale", unit)
    return [helper.make_node("DequantizeLinear", [name, f"{name}.scale"], [f"{name}.value"], axis=0)]


def _int32(biases: np.ndarray, name: str) -> np.ndarray:
    limits = np.iinfo(np.int32)
    if not ((biases >= limits.min) & (biases <= limits.max)).all():
        raise ExportError(f"{name}: a bias of {np.abs(biases).max():.3g} steps does not fit int32")
    return biases.astype(np.int32)


def _activation(graph: _Graph, q: Quantizer) -> list[onnx.NodeProto]:
    """QuantizeLinear, Clip and DequantizeLinear; or a look-up for what comes from a table."""
    name, offset = q.node.name, graph.zero(q)
    dtype = np.uint8 if graph.zero_points else np.int8
    low, high = q.low + offset, q.high + offset
    if high > np.iinfo(dtype).max:
        raise ExportError(f"{name}: unsigned activations of {q.bits} bits; int8 without zero point holds 7")
    zero = constant(graph.model, f"zero_{offset}", np.array(offset, dtype))
    scale = constant(graph.model, f"{name}.scale", q.scale.reshape(()).astype(np.float32))
    made: list[onnx.NodeProto] = []

    def step(op_type: str, inputs: list[str], output: str) -> str:
        made.append(helper.make_node(op_type, inputs, [output], f"{name}_{op_type}"))
        return output

    def clipped(x: str, low: np.ndarray, high: np.ndarray) -> str:
        bounds = [constant(graph.model, f"{v.dtype}_{v}", v) for v in (low, high)]
        return step("Clip", [x, *bounds], f"{name}.clipped")

    x, narrow = q.node.input[0], (low, high) != (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if x in graph.lookups:
        made += _looked_up(graph, q, offset)
        codes = f"{name}.codes"
    else:
        if narrow and graph.clip_values:
            x = clipped(x, *(np.asarray(q.scale * v, np.float32).reshape(()) for v in (q.low, q.high)))
        codes = step("QuantizeLinear", [x, scale, zero], f"{name}.codes")
        if narrow and not graph.clip_values:
            codes = clipped(codes, np.array(low, dtype), np.array(high, dtype))
    graph.codes[q.node.output[0]] = codes
    return [*made, *_values(graph, q.node.output[0], q)]


def _stored(graph: _Graph, q: Quantizer) -> list[onnx.NodeProto]:
    """Codes of a stored tensor, of the type and with the zero of activations."""
    offset, dtype = graph.zero(q), np.uint8 if graph.zero_points else np.int8
    codes = integer_codes(graph.values[q.weight], q.scale, q.low, q.high).astype(np.int64) + offset
    set_initializer(graph.model, q.weight, codes.astype(dtype))
    constant(graph.model, f"zero_{offset}", np.array(offset, dtype))
    constant(graph.model, f"{q.node.name}.scale", q.scale.reshape(()).astype(np.float32))
    graph.codes[q.node.output[0]] = q.weight
    return _values(graph, q.node.output[0], q)


def _looked_up(graph: _Graph, q: Quantizer, offset: int) -> list[onnx.NodeProto]:
    """Codes from a table that has a place for every code of a byte."""
    gather, name = graph.lookups[q.node.input[0]], q.node.name
    first, *_ = graph.lookup(gather)
    source = graph.grid(first.input[0])
    if source is None or not graph.zero_points:
        raise ExportError(f"{name}: a table of codes; this target takes none")
    known = np.clip(np.rint(graph.values[gather.input[0]] / q.scale), q.low, q.high).astype(np.int64) + offset
    table = np.full(256, offset, np.uint8)
    begin = source.low + graph.zero(source)
    table[begin : begin + len(known)] = known
    set_initializer(graph.model, f"{name}.table", table)
    place = f"{name}.place"
    cast = helper.make_node(
        "Cast", [graph.codes[first.input[0]]], [place], f"{name}_Cast", to=onnx.TensorProto.INT32
    )
    return [cast, helper.make_node("Gather", [f"{name}.table", place], [f"{name}.codes"], f"{name}_Gather")]


def _moved(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The same node on codes."""
    q = graph.grid(node.output[0])
    if q is None:
        raise ExportError(f"{node.name}: moves what is on no grid")
    moved = onnx.NodeProto.FromString(node.SerializeToString())
    moved.input[0], moved.output[0] = graph.codes[node.input[0]], f"{node.output[0]}.codes"
    if node.op_type == "Pad":
        moved.input[2] = f"zero_{graph.zero(q)}"
    graph.codes[node.output[0]] = moved.output[0]
    return [moved, *_values(graph, node.output[0], q)]


def _values(graph: _Graph, value: str, q: Quantizer) -> list[onnx.NodeProto]:
    """DequantizeLinear for those that read the values of codes; another for sums, with a smaller scale."""
    name, offset = q.node.name, graph.zero(q)
    inputs = [graph.codes[value], f"{name}.scale", f"zero_{offset}"]
    readers = graph.readers.get(value, [])
    sums = [node for node in readers if node.name in graph.factors]
    others = [
        n for n in readers if n not in sums and n.op_type not in ON_CODES and n.name not in graph.looked
    ]
    made = []
    if others or not readers:
        made.append(helper.make_node("DequantizeLinear", inputs, [value], f"{value}_DequantizeLinear"))
    if sums:
        factor = graph.values[graph.factors[sums[0].name].input[1]]
        below = np.asarray(q.scale.reshape(()) * factor, np.float32)
        scale = constant(graph.model, f"{name}.scale.below", below)
        inputs[1] = scale
        made.append(helper.make_node("DequantizeLinear", inputs, [f"{value}.below"], f"{value}_below"))
    return made


def _over_space(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> bool:
    axes = values.get(node.input[1]) if len(node.input) > 1 else None
    return (
        axes is not None
        and sorted(a % 4 for a in axes.tolist()) == [2, 3]
        and attributes(node).get("keepdims", 1) == 1
    )
