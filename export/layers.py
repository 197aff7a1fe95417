"""How each kind of layer, function and method is written as ONNX.

A writer gets the graph, the call, the names of the tensors that enter, and for a module the module. It
returns the name of what comes out.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import brevitas.nn as qnn
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qmu_edge.errors import ExportError
from qmu_edge.export.writer import BrevitasLayer, Shape, Writer
from qmu_edge.models.deployed import Affine, BreakTies, NormOfCodes, SharesOfCodes, Table
from qmu_edge.models.follow import ADD, JOIN, MATMUL, MULTIPLY
from qmu_edge.models.layers import AveragePool, Line, Normalize, StochasticDepth, pair
from qmu_edge.models.parts import part_of
from qmu_edge.models.tokens import Softmax

Call = fx.Node


def _conv(w: Writer, call: Call, x: str, m: BrevitasLayer) -> str:
    left, right, top, bottom = m._reversed_padding_repeated_twice  # of torch, also where padding is a word
    return w.node(
        "Conv", f"{call.target}.sum", w.layer_inputs(str(call.target), x, m), kernel_shape=m.kernel_size,
        strides=m.stride, pads=[top, left, bottom, right], dilations=m.dilation, group=m.groups,
    )  # fmt: skip


def _linear(w: Writer, call: Call, x: str, m: BrevitasLayer) -> str:
    return w.node("Gemm", f"{call.target}.sum", w.layer_inputs(str(call.target), x, m), transB=1)


def _affine(w: Writer, call: Call, x: str, m: Affine) -> str:
    shifted = w.node("Add", f"{call.target}.shifted", [x, w.constant(f"{call.target}.bias", m.bias)])
    return w.node("Mul", f"{call.target}.scaled", [shifted, w.constant(f"{call.target}.gain", m.gain)])


def _line(w: Writer, call: Call, x: str, m: Line) -> str:
    scaled = w.node("Mul", f"{call.target}.scaled", [x, w.number(m.slope)])
    return w.node("Add", f"{call.target}.shifted", [scaled, w.number(m.offset)])


def _norm(w: Writer, call: Call, x: str, m: Any) -> str:
    """A batch-norm of floats, which no layer precedes."""
    shape = (1, -1, *(1,) * (len(w.shape(call)) - 2))
    gain = m.weight.double() / (m.running_var.double() + m.eps).sqrt()
    shift = m.bias.double() - m.running_mean.double() * gain
    values = [
        w.constant(f"{call.target}.{n}", v.float().view(shape)) for n, v in (("gain", gain), ("bias", shift))
    ]
    return w.node(
        "Add", f"{call.target}.shifted", [w.node("Mul", f"{call.target}.scaled", [x, values[0]]), values[1]]
    )


def _break_ties(w: Writer, call: Call, x: str, m: BreakTies) -> str:
    return w.node("Mul", f"{call.target}.below", [x, w.constant("below_one", m.factor)])


def _normalize(w: Writer, call: Call, x: str, m: Normalize) -> str:
    centred = w.node("Sub", f"{call.target}.centred", [x, w.constant(f"{call.target}.mean", m.mean)])
    scale = w.constant(f"{call.target}.inverse_std", m.inverse_std)
    return w.node("Mul", f"{call.target}.scaled", [centred, scale])


def _relu(w: Writer, call: Call, x: str, m: nn.Module) -> str:
    return w.node("Relu", f"{call.target}.relu", [x])


def _quant_relu(w: Writer, call: Call, x: str, m: BrevitasLayer) -> str:
    return w.activation(str(call.target), _relu(w, call, x, m), m)


def _clip(w: Writer, call: Call, x: str, m: nn.Hardtanh) -> str:
    bounds = [w.number(v) for v in (m.min_val, m.max_val)]
    return w.node("Clip", f"{call.target}.clip", [x, *bounds])


def _function(op_type: str, *names: str, **fixed: float) -> Callable[[Writer, Call, str, Any], str]:
    """A function with an operator of its own, and attributes of the module or `fixed` ones."""

    def write(w: Writer, call: Call, x: str, m: Any) -> str:
        attributes = dict(zip(("alpha",), (getattr(m, name) for name in names), strict=False)) | fixed
        return w.node(op_type, f"{call.target}.{op_type.lower()}", [x], **attributes)

    return write


def _silu(w: Writer, call: Call, x: str, m: nn.SiLU) -> str:
    gate = w.node("Sigmoid", f"{call.target}.gate", [x])
    return w.node("Mul", f"{call.target}.gated", [x, gate])


def _gelu(w: Writer, call: Call, x: str, m: nn.GELU) -> str:
    """0.5 x (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in the place of erf."""
    name = str(call.target)
    if m.approximate == "tanh":
        square = w.node("Mul", f"{name}.square", [x, x])
        cube = w.node("Mul", f"{name}.cube", [square, x])
        raised = w.node("Mul", f"{name}.raised", [cube, w.number(0.044715)])
        inner = w.node("Add", f"{name}.sum", [x, raised])
        curve = w.node(
            "Tanh", f"{name}.tanh", [w.node("Mul", f"{name}.inner", [inner, w.number((2 / math.pi) ** 0.5)])]
        )
    else:
        curve = w.node("Erf", f"{name}.erf", [w.node("Mul", f"{name}.inner", [x, w.number(0.5**0.5)])])
    half = w.node("Mul", f"{name}.half", [x, w.number(0.5)])
    return w.node("Mul", f"{name}.gelu", [half, w.node("Add", f"{name}.gate", [curve, w.number(1.0)])])


def _table(w: Writer, call: Call, x: str, m: Table) -> str:
    return _looked_up(w, str(call.target), x, m.values, m.grid.step, m.grid.low)


def _looked_up(w: Writer, name: str, x: str, values: Tensor, step: float, low: int) -> str:
    """The place of every code, counted from the smallest, then the value there."""
    steps = w.node("Mul", f"{name}.steps", [x, w.constant(f"{name}.inverse_step", 1.0 / step)])
    half_up = w.number(0.5 - low)  # a Cast cuts off what is behind the point
    place = w.node("Cast", f"{name}.place", [w.node("Add", f"{name}.raised", [steps, half_up])], to=7)
    return w.node("Gather", f"{name}.value", [w.constant(f"{name}.table", values), place])


def _shares(w: Writer, call: Call, x: str, m: SharesOfCodes) -> str:
    name, last = str(call.target), w.constant("last_axis", np.array([-1]))
    below = w.node("Sub", f"{name}.below", [x, w.node("ReduceMax", f"{name}.largest", [x, last])])
    found = _looked_up(w, name, below, m.values, m.grid.step, 1 - len(m.values))
    return w.node("Div", f"{name}.shares", [found, w.node("ReduceSum", f"{name}.total", [found, last])])


def _norm_of_codes(w: Writer, call: Call, x: str, m: NormOfCodes) -> str:
    name, last = str(call.target), w.constant("last_axis", np.array([-1]))

    def node(op_type: str, part: str, *inputs: str) -> str:
        return w.node(op_type, f"{name}.{part}", [*inputs])

    inverse, eps, gain, bias = (w.constant(f"{name}.{n}", t) for n, t in m.named_buffers())
    mean = node("Mul", "mean", node("ReduceSum", "total", x, last), inverse)
    squares = node("Mul", "squares", node("ReduceSum", "powers", node("Mul", "power", x, x), last), inverse)
    variance = node("Relu", "variance", node("Sub", "spread", squares, node("Mul", "square", mean, mean)))
    deviation = node("Sqrt", "deviation", node("Add", "raised", variance, eps))
    apart = node("Div", "apart", node("Sub", "centred", x, mean), deviation)
    return node("Add", "shifted", node("Mul", "scaled", apart, gain), bias)


def _layer_norm(w: Writer, call: Call, x: str, m: nn.LayerNorm) -> str:
    parts = [("gain", m.weight), *([] if m.bias is None else [("bias", m.bias)])]
    stored = [w.constant(f"{call.target}.{name}", value) for name, value in parts]
    return w.node(
        "LayerNormalization", f"{call.target}.normalised", [x, *stored], axis=-1, epsilon=float(m.eps)
    )


def _softmax(w: Writer, call: Call, x: str, m: Softmax) -> str:
    scaled = w.node("Mul", f"{call.target}.scaled", [x, w.number(m.scale)])
    return w.node("Softmax", f"{call.target}.shares", [scaled], axis=-1)


def _max_pool(w: Writer, call: Call, x: str, m: nn.MaxPool2d) -> str:
    kernel, stride, padding, dilation = (pair(v) for v in (m.kernel_size, m.stride, m.padding, m.dilation))
    sizes = zip(
        w.shape(call.all_input_nodes[0])[2:],
        w.shape(call)[2:],
        kernel,
        stride,
        padding,
        dilation,
        strict=True,
    )
    # What torch pads below and right, where the last window is a part of one.
    ends = [max(p, (out - 1) * s + d * (k - 1) + 1 - size - p) for size, out, k, s, p, d in sizes]
    dilations = {} if dilation == (1, 1) else {"dilations": dilation}
    return w.node(
        "MaxPool",
        f"{call.target}.max",
        [x],
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *ends],
        **dilations,
    )


def _average_pool(w: Writer, call: Call, x: str, m: AveragePool) -> str:
    mean = w.node(
        "AveragePool", f"{call.target}.mean", [x], kernel_shape=m.kernel, strides=m.stride,
        pads=[*m.padding, *m.padding], count_include_pad=1,
    )  # fmt: skip
    factor = m.factor * m.kernel[0] * m.kernel[1]
    return w.node("Mul", f"{call.target}.scaled", [mean, w.number(factor)])


def _flatten(w: Writer, call: Call, x: str, m: nn.Flatten) -> str:
    if len(w.shape(call)) == 2 and m.start_dim == 1:
        return w.node("Reshape", f"{call.target}.flat", [x, w.constant("flat", np.array([0, -1]))])
    return w.reshape(f"{call.target}.flat", x, w.shape(call.all_input_nodes[0]), w.shape(call))


def _zero_pad(w: Writer, call: Call, x: str, m: nn.ZeroPad2d) -> str:
    left, right, top, bottom = m.padding
    before = [0] * (len(w.shape(call)) - 2)
    pads = np.array([*before, top, left, *before, bottom, right])
    name = f"pads_{'_'.join(map(str, pads))}"
    return w.node("Pad", f"{call.target}.padded", [x, w.constant(name, pads), w.constant("zero", 0.0)])


def _upsample(w: Writer, call: Call, x: str, m: nn.Upsample) -> str:
    sizes = np.array(w.shape(call)[2:])
    stored = w.constant(f"sizes_{'_'.join(map(str, sizes))}", sizes)
    return w.node(
        "Resize", f"{call.target}.larger", [x, "", "", stored],
        axes=[2, 3], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _shuffle(w: Writer, call: Call, x: str, m: nn.ChannelShuffle) -> str:
    n, c, *places = w.shape(call)
    return _reordered(w, call, x, (n, m.groups, c // m.groups, *places), [0, 2, 1, 3, 4])


def _pixel_shuffle(w: Writer, call: Call, x: str, m: nn.PixelShuffle) -> str:
    n, c, *places = w.shape(call.all_input_nodes[0])
    r = m.upscale_factor
    return _reordered(w, call, x, (n, c // r**2, r, r, *places), [0, 1, 4, 2, 5, 3])


def _reordered(w: Writer, call: Call, x: str, shape: Shape, order: list[int]) -> str:
    """A view, its axes in another order, and a view of that."""
    apart = w.reshape(f"{call.target}.apart", x, w.shape(call.all_input_nodes[0]), shape)
    moved = w.transpose(f"{call.target}.moved", apart, order)
    return w.reshape(f"{call.target}.together", moved, tuple(shape[i] for i in order), w.shape(call))


def _mean_over_space(w: Writer, call: Call, x: str) -> str:
    if w.shape(call)[2:] != (1, 1):
        raise ExportError(f"{call.name}: pooling to {w.shape(call)[2:]} pixels cannot be exported, only to 1")
    return w.node("ReduceMean", call.name, [x, w.constant("space", np.array([-1, -2]))])


def _mean_function(w: Writer, call: Call, inputs: list[str]) -> str:
    return _mean_over_space(w, call, inputs[0])


def _unflatten(w: Writer, call: Call, x: str, m: nn.Unflatten) -> str:
    return w.reshape(f"{call.target}.shaped", x, w.shape(call.all_input_nodes[0]), w.shape(call))


def _reshape(w: Writer, call: Call, inputs: list[str]) -> str:
    return w.reshape(call.name, inputs[0], w.shape(call.all_input_nodes[0]), w.shape(call))


def _permute(w: Writer, call: Call, inputs: list[str]) -> str:
    given: Any = call.args[1:] or (call.kwargs["dims"],)
    order = given[0] if isinstance(given[0], tuple | list) else given
    return w.transpose(call.name, inputs[0], [d % len(order) for d in order])


def _transpose(w: Writer, call: Call, inputs: list[str]) -> str:
    order = [*range(len(w.shape(call)))]
    names = ("dim0", "dim1")
    given: Any = {**dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
    a, b = (given[name] % len(order) for name in names)
    order[a], order[b] = order[b], order[a]
    return w.transpose(call.name, inputs[0], order)


def _join(w: Writer, call: Call, inputs: list[str]) -> str:
    tensors: Any = call.args[0] if call.args else call.kwargs["tensors"]
    by_call = dict(zip(call.all_input_nodes, inputs, strict=True))  # which hold a tensor once
    given: Any = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", call.kwargs.get("axis", 0))
    return w.node("Concat", call.name, [by_call[x] for x in tensors], axis=given % len(w.shape(call)))


def _both(op_type: str) -> Callable[[Writer, Call, list[str]], str]:
    """An operator of two tensors, which may be one."""
    return lambda w, call, inputs: w.node(op_type, call.name, inputs * 2 if len(inputs) == 1 else inputs)


def _part(w: Writer, call: Call, inputs: list[str]) -> str:
    """One of several tensors, or a slice of one."""
    try:
        places = part_of(call, w.found)
    except ValueError as error:
        raise ExportError(f"{call.name}: {error}") from None
    if not places:  # all of it
        return inputs[0]
    starts, ends, steps = zip(*places.values(), strict=True)
    numbers = [np.array(v) for v in (starts, ends, [*places], steps)]
    names = [
        w.constant(f"{call.name}.{n}", v) for n, v in zip(("from", "to", "axes", "by"), numbers, strict=True)
    ]
    return w.node("Slice", call.name, [inputs[0], *names])


def _same(w: Writer, call: Call, inputs: list[str]) -> str:
    return inputs[0]


ModuleWriter = Callable[[Writer, Call, str, Any], str]
FunctionWriter = Callable[[Writer, Call, list[str]], str]
WITH_QUANTIZER: Final = (nn.Conv2d, nn.Linear)
MODULES: Final[Mapping[type, ModuleWriter]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    qnn.QuantReLU: _quant_relu,
    qnn.QuantIdentity: lambda w, call, x, m: w.activation(str(call.target), x, m),
    Affine: _affine,
    BreakTies: _break_ties,
    Normalize: _normalize,
    Line: _line,
    Table: _table,
    SharesOfCodes: _shares,
    NormOfCodes: _norm_of_codes,
    Softmax: _softmax,
    nn.LayerNorm: _layer_norm,
    AveragePool: _average_pool,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm1d: _norm,
    nn.ReLU: _relu,
    nn.Hardtanh: _clip,
    nn.LeakyReLU: _function("LeakyRelu", "negative_slope"),
    nn.ELU: _function("Elu", "alpha"),
    nn.Hardsigmoid: _function("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Hardswish: _function("HardSwish"),
    nn.Sigmoid: _function("Sigmoid"),
    nn.Tanh: _function("Tanh"),
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    nn.AdaptiveAvgPool2d: lambda w, call, x, m: _mean_over_space(w, call, x),
    nn.MaxPool2d: _max_pool,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.ZeroPad2d: _zero_pad,
    nn.Upsample: _upsample,
    nn.ChannelShuffle: _shuffle,
    nn.PixelShuffle: _pixel_shuffle,
    nn.Identity: lambda w, call, x, m: x,
    nn.Dropout: lambda w, call, x, m: x,
    nn.Dropout2d: lambda w, call, x, m: x,
    StochasticDepth: lambda w, call, x, m: x,
}
FUNCTIONS: Final[Mapping[object, FunctionWriter]] = {
    ADD: _both("Add"),
    MULTIPLY: _both("Mul"),
    MATMUL: _both("MatMul"),
    JOIN: _join,
    F.adaptive_avg_pool2d: _mean_function,
    **dict.fromkeys(
        ("reshape", torch.reshape, "squeeze", torch.squeeze, "unsqueeze", torch.unsqueeze), _reshape
    ),
    **dict.fromkeys(("permute", torch.permute), _permute),
    **dict.fromkeys(("transpose", torch.transpose), _transpose),
    **dict.fromkeys(("chunk", torch.chunk, "split", torch.split, "contiguous"), _same),
    operator.getitem: _part,
}
