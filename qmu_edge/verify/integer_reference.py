"""What an integer file computes, by numpy alone: an independent reference for onnxruntime.

Codes travel from layer to layer. A layer sums code x code and its bias as integers, multiplies by one float32
number per channel, rounds half to even, adds the zero point and clips. onnxruntime's integer kernels do the
same, so every integer tensor must be equal, whatever the scales are:

    layer       rint(float32(sum + bias) * float32(sx * sw / sy)) + zy
    addition    rint(a * ra + (b * rb + zy - (ra * za + rb * zb))), ra = sa / sy, rb = sb / sy, both products
                and sums fused (rounded once); exact for power-of-two scales, and where scales are free the
                one place in which processors may differ by a step, for want of fused instructions
    product     rint(a * b * (sa * sb / sy)) + zy, exact for power-of-two scales
    joined      rint(x * sx / sy) + zy, each by itself
    mean        rint(sum * (sx / (n * sy))) + zy
    table       the entry of each code
    matrices    as a layer, with the scales of both
    floats      of codes, one by one, and their sums, in float32

It is slow: every sum is written out, and no code is shared with the exporter or the runtime.

Source: ONNX operators QuantizeLinear, DequantizeLinear, Conv, Gemm of opset 21; onnxruntime's QLinearConv,
    QLinearAdd, QLinearGlobalAveragePool and QGemm.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import ELEMENT_TYPES, Node, OnnxFile

Array = NDArray[Any]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes with their grid: value = (codes - zero) * scale; scale is () or one for each first axis."""

    codes: Codes
    scale: NDArray[np.float32]
    zero: int = 0

    def values(self) -> NDArray[np.float32]:
        """The values, float32, shaped like the codes."""
        scale = self.scale if self.scale.ndim == 0 else self.scale.reshape(-1, *(1,) * (self.codes.ndim - 1))
        return np.asarray((self.codes - self.zero).astype(np.float32) * scale, np.float32)


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums of a layer or an addition, not yet rounded to a grid.

    Attributes:
        on_grid: Maps a scale and a zero point to the codes of that grid, before rounding.
        values: The values float32, for a reader that is no quantizer.
    """

    on_grid: Callable[[np.float32, int], Array]
    values: NDArray[np.float32]


Operand = Array | Quantized | Sum


def run_integers(file: OnnxFile, images: Array) -> dict[str, Array]:
    """Compute a file of the integer format.

    Args:
        file: From `read`; integer or packed, made for float or uint8 input.
        images: As the file takes them, (n, c, h, w) or (n, h, w, c).

    Returns:
        Every integer tensor by name, and the output.

    Raises:
        ExportError: An operator that the integer format does not have, or a float layer.
    """
    names: dict[str, Operand] = {t.name: t.array() for t in file.graph.initializers.values()}
    names |= {value.name: images for value in file.graph.inputs if value.name not in names}
    found: dict[str, Array] = {}
    for node in file.graph.nodes:
        step = _STEPS.get(node.op_type)
        if step is None:
            raise ExportError(f"{node.label}: no operator of the integer format")
        result = step(node, [names[name] for name in node.inputs if name])
        names[node.outputs[0]] = result
        if isinstance(result, np.ndarray) and result.dtype.kind in "iu":
            found[node.outputs[0]] = result
    for value in file.graph.outputs:
        found[value.name] = _floats(names[value.name])
    return found


def _floats(x: Operand) -> NDArray[np.float32]:
    if isinstance(x, Quantized | Sum):
        return x.values() if isinstance(x, Quantized) else x.values
    return np.asarray(x, np.float32)


def _array(node: Node, x: Operand) -> Array:
    if isinstance(x, Quantized | Sum):
        raise ExportError(f"{node.label}: a quantized value; allowed a stored tensor, an image or codes")
    return x


def _quantized(node: Node, x: Operand) -> Quantized:
    if not isinstance(x, Quantized):
        raise ExportError(f"{node.label}: a float layer; only integer layers can be computed exactly")
    return x


def _quantize(node: Node, inputs: list[Operand]) -> Array:
    x, *grid = inputs
    scales, zeros = (_array(node, each) for each in grid)
    limits, scale, zero = np.iinfo(zeros.dtype), np.float32(scales), int(zeros)
    places = x.on_grid(scale, zero) if isinstance(x, Sum) else np.rint(_floats(x) / scale) + zero
    codes = np.rint(places).astype(np.int64)
    return np.asarray(np.clip(codes, limits.min, limits.max), zeros.dtype)


def _dequantize(node: Node, inputs: list[Operand]) -> Quantized:
    codes, scale, *zeros = (_array(node, each) for each in inputs)
    zero = int(zeros[0].reshape(-1)[0]) if zeros else 0  # one for all channels: weights have zeros only
    return Quantized(codes.astype(np.int64), np.asarray(scale, np.float32), zero)


def _convolve(node: Node, inputs: list[Operand]) -> Sum:
    x, w, *biases = (_quantized(node, each) for each in inputs)
    strides = node.attributes["strides"].ints if "strides" in node.attributes else (1, 1)
    pads = node.attributes["pads"].ints if "pads" in node.attributes else (0, 0, 0, 0)
    dilations = node.attributes["dilations"].ints if "dilations" in node.attributes else (1, 1)
    total = convolve(x.codes - x.zero, _dilated(w.codes, dilations), strides, pads, node.integer("group", 1))
    for bias in biases:
        total = total + bias.codes.reshape(1, -1, 1, 1)
    return _layer(total, x, w, channel_shape=(1, -1, 1, 1))


def _dilated(w: Codes, dilations: tuple[int, ...]) -> Codes:
    """A kernel with zeros between its places."""
    if set(dilations) == {1}:
        return w
    (o, c, i, j), (down, across) = w.shape, dilations
    wide = np.zeros((o, c, (i - 1) * down + 1, (j - 1) * across + 1), w.dtype)
    wide[:, :, ::down, ::across] = w
    return wide


def convolve(x: Codes, w: Codes, strides: tuple[int, ...], pads: tuple[int, ...], groups: int) -> Codes:
    """Integer convolution as the sum over kernel positions.

    Args:
        x: (n, c, h, w).
        w: (o, c / groups, i, j).
        strides: Two.
        pads: Top, left, bottom, right.
        groups: Divides c and o.

    Returns:
        (n, o, h', w').

    >>> x, w = np.ones((1, 1, 3, 3), np.int64), np.ones((1, 1, 3, 3), np.int64)
    >>> convolve(x, w, (1, 1), (1, 1, 1, 1), 1)[0, 0].tolist()
    [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    """
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    n, _, height, width = x.shape
    outputs, per_group, i, j = w.shape
    rows, columns = (height - i) // strides[0] + 1, (width - j) // strides[1] + 1
    # float64 holds these integers exactly (below 2**53), and multiplies matrices much faster than int64.
    total = np.zeros((n, groups, outputs // groups, rows * columns))
    for a in range(i):
        for b in range(j):
            seen = x[:, :, a : a + rows * strides[0] : strides[0], b : b + columns * strides[1] : strides[1]]
            seen = seen.reshape(n, groups, per_group, rows * columns).astype(np.float64)
            kernel = w[:, :, a, b].reshape(groups, outputs // groups, per_group).astype(np.float64)
            total += kernel @ seen
    return total.reshape(n, outputs, rows, columns).astype(np.int64)


def _multiply(node: Node, inputs: list[Operand]) -> Sum:
    x, w, *biases = (_quantized(node, each) for each in inputs)
    total = (x.codes - x.zero) @ w.codes.T
    for bias in biases:
        total = total + bias.codes
    return _layer(total, x, w, channel_shape=(1, -1))


def _matrices(node: Node, inputs: list[Operand]) -> Sum:
    a, b = (_quantized(node, each) for each in inputs)
    sums = ((a.codes - a.zero) @ (b.codes - b.zero)).astype(np.float32)
    product = np.float32(a.scale * b.scale)
    return Sum(lambda scale, zero: np.rint(sums * (product / scale)) + zero, sums * product)


def _along(compute: Callable[..., Array]) -> "Callable[[Node, list[Operand]], Operand]":
    """A sum or the largest along stored axes, which are kept."""
    return lambda node, inputs: compute(
        _floats(inputs[0]), axis=tuple(_array(node, inputs[1]).tolist()), keepdims=True
    )


def _layer(total: Codes, x: Quantized, w: Quantized, channel_shape: tuple[int, ...]) -> Sum:
    """Sums of code x code with the scales of input and weight; one weight scale for each channel."""
    sums = total.astype(np.float32)
    product = (x.scale * w.scale.reshape(channel_shape)).astype(np.float32)
    return Sum(
        lambda scale, zero: np.rint(sums * (product / scale).astype(np.float32)) + zero, sums * product
    )


def _rectify(node: Node, inputs: list[Operand]) -> Operand:
    (x,) = inputs
    if isinstance(x, Sum):
        return Sum(lambda scale, zero: np.maximum(x.on_grid(scale, zero), zero), np.maximum(x.values, 0))
    return np.maximum(_floats(x), 0)


def _clip(node: Node, inputs: list[Operand]) -> Operand:
    x, *bounds = inputs
    low, high = (_array(node, bound) for bound in bounds)
    if isinstance(x, Sum):
        return Sum(
            lambda scale, zero: np.clip(x.on_grid(scale, zero), low / scale + zero, high / scale + zero),
            np.clip(x.values, low, high),
        )
    return np.asarray(np.clip(_array(node, x), low, high))


def _add(node: Node, inputs: list[Operand]) -> Operand:
    if not all(isinstance(x, Quantized) for x in inputs):
        return _floats(inputs[0]) + _floats(inputs[1])
    a, b = (_quantized(node, each) for each in inputs)

    def on_grid(scale: np.float32, zero: int) -> Array:
        ra, rb = a.scale / scale, b.scale / scale
        fixed = np.float32(zero) - (ra * np.float32(a.zero) + rb * np.float32(b.zero))
        # float64 holds product and sum exactly, so the one rounding is that of a fused instruction
        inner = (b.codes * np.float64(rb) + np.float64(fixed)).astype(np.float32)
        return np.asarray(a.codes * np.float64(ra) + inner.astype(np.float64), np.float32)

    return Sum(on_grid, a.values() + b.values())


def _product(node: Node, inputs: list[Operand]) -> Operand:
    if not all(isinstance(x, Quantized) for x in inputs):
        return _floats(inputs[0]) * _floats(inputs[1])
    a, b = (_quantized(node, each) for each in inputs)
    products = ((a.codes - a.zero) * (b.codes - b.zero)).astype(np.float32)
    return Sum(
        lambda scale, zero: np.rint(products * (a.scale * b.scale / scale)) + zero, a.values() * b.values()
    )


def _join(node: Node, inputs: list[Operand]) -> Sum:
    values = np.concatenate([_quantized(node, x).values() for x in inputs], node.integer("axis", 1))
    return Sum(lambda scale, zero: np.rint(values / scale) + zero, values)


def _gather(node: Node, inputs: list[Operand]) -> Array:
    table, places = (_array(node, each) for each in inputs)
    return table[places]


def _slice(node: Node, inputs: list[Operand]) -> Array:
    x, *numbers = (_array(node, each) for each in inputs)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(*(n.tolist() for n in numbers), strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _pad(node: Node, inputs: list[Operand]) -> Array:
    x, pads, value = (_array(node, each) for each in inputs)
    if node.attributes:
        raise ExportError(
            f"{node.label}: {', '.join(node.attributes)}; allowed: a constant around each image"
        )
    return np.pad(x, [*zip(pads[: x.ndim], pads[x.ndim :], strict=True)], constant_values=value)


def _resize(node: Node, inputs: list[Operand]) -> Array:
    x, sizes = (_array(node, each) for each in (inputs[0], inputs[-1]))
    (rows, *below), (columns, *beside) = (
        divmod(size, old) for size, old in zip(sizes.tolist(), x.shape[2:], strict=True)
    )
    if [*below, *beside] != [0, 0] or node.attributes["mode"].strings != (b"nearest",):
        raise ExportError(f"{node.label}: more than repeated pixels")
    return x.repeat(rows, 2).repeat(columns, 3)


def _mean(node: Node, inputs: list[Operand]) -> Sum:
    (x,) = (_quantized(node, each) for each in inputs)
    area = x.codes.shape[2] * x.codes.shape[3]
    sums = (x.codes - x.zero).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    return Sum(
        lambda scale, zero: np.rint(sums * (x.scale / (scale * np.float32(area)))) + zero,
        sums * (x.scale / np.float32(area)),
    )


def _max_pool(node: Node, inputs: list[Operand]) -> Array:
    (x,) = (_array(node, each) for each in inputs)
    (i, j), strides = node.attributes["kernel_shape"].ints, node.attributes["strides"].ints
    pads = node.attributes["pads"].ints
    if set(node.attributes["dilations"].ints if "dilations" in node.attributes else (1,)) != {1}:
        raise ExportError(f"{node.label}: a window with gaps")
    low = np.iinfo(x.dtype).min
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=low)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (i, j), (2, 3))
    return np.asarray(windows[:, :, :: strides[0], :: strides[1]].max(axis=(4, 5)))


def _reshape(node: Node, inputs: list[Operand]) -> Array:
    x, shape = (_array(node, each) for each in inputs)
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape.tolist())])


def _cast(node: Node, inputs: list[Operand]) -> Array:
    element = ELEMENT_TYPES[node.integer("to", 1)]
    return _array(node, inputs[0]).astype(element.word)


def _transpose(node: Node, inputs: list[Operand]) -> Array:
    return _array(node, inputs[0]).transpose(node.attributes["perm"].ints)


_STEPS: Final[Mapping[str, Callable[[Node, list[Operand]], Operand]]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Clip": _clip,
    "Conv": _convolve,
    "Gemm": _multiply,
    "Relu": _rectify,
    "Add": _add,
    "Concat": _join,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "GlobalAveragePool": _mean,
    "MatMul": _matrices,
    "ReduceMax": _along(np.max),
    "ReduceSum": _along(np.sum),
    "Sqrt": lambda node, inputs: np.sqrt(_floats(inputs[0])),
    "MaxPool": _max_pool,
    "Reshape": _reshape,
    "Cast": _cast,
    "Transpose": _transpose,
    "Sub": lambda node, inputs: _floats(inputs[0]) - _floats(inputs[1]),
    "Mul": _product,
    "Div": lambda node, inputs: _floats(inputs[0]) / _floats(inputs[1]),
}
