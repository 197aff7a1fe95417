"""An independent answer to what an integer file computes: numpy integers, no onnxruntime.

Between two layers stand codes. A layer adds code x code and its bias as integers, multiplies by one float32
number per channel, rounds half to even, adds the zero point and clips. That is what onnxruntime's integer
kernels do, so every integer tensor must be equal, whatever the scales are:

    layer       rint(float32(sum + bias) * float32(sx * sw / sy)) + zy
    addition    rint(a * ra + (b * rb + zy - (ra * za + rb * zb))), ra = sa / sy, rb = sb / sy, both products
                and sums fused (rounded once); exact for power-of-two scales, and where scales are free the
                one place in which processors may differ by a step, for want of fused instructions
    mean        rint(sum * (sx / (n * sy))) + zy

Slow on purpose: it is the obvious way to compute it, and shares no code with what it checks.

Source: ONNX operators QuantizeLinear, DequantizeLinear, Conv, Gemm of opset 21; onnxruntime's QLinearConv,
    QLinearAdd, QLinearGlobalAveragePool and QGemm.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import Node, OnnxFile

Codes = NDArray[np.int64]
_DTYPES: Final = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes with their scale and zero point: value = (codes - zero) * scale."""

    codes: Codes
    scale: NDArray[np.float32]
    zero: int = 0

    def values(self) -> NDArray[np.float32]:
        """The numbers meant, float32; per-channel scales run along the first axis."""
        scale = self.scale if self.scale.ndim == 0 else self.scale.reshape(-1, *(1,) * (self.codes.ndim - 1))
        return np.asarray((self.codes - self.zero).astype(np.float32) * scale, np.float32)


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums of a layer or an addition, not yet rounded to a grid.

    Attributes:
        on_grid: Their places on the grid of this scale and zero point, before rounding.
        values: The numbers meant, where no grid follows.
    """

    on_grid: Callable[[np.float32, int], NDArray[Any]]
    values: NDArray[np.float32]


def run_integers(file: OnnxFile, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Compute a file of the integer format.

    Args:
        file: From `read`; integer or packed, made for float or uint8 input.
        images: As the file takes them, (n, c, h, w) or (n, h, w, c).

    Returns:
        Every integer tensor by name, and the output.

    Raises:
        ExportError: An operator that the integer format does not have.
    """
    names: dict[str, Any] = {t.name: t.array() for t in file.graph.initializers.values()}
    names |= {value.name: images for value in file.graph.inputs if value.name not in names}
    found: dict[str, NDArray[Any]] = {}
    for node in file.graph.nodes:
        step = _STEPS.get(node.op_type)
        if step is None:
            raise ExportError(f"{node.label}: no operator of the integer format")
        result = step(node, [names[name] for name in node.inputs])
        names[node.outputs[0]] = result
        if isinstance(result, np.ndarray) and result.dtype.kind in "iu":
            found[node.outputs[0]] = result
    for value in file.graph.outputs:
        found[value.name] = _floats(names[value.name])
    return found


def _floats(x: Any) -> NDArray[np.float32]:
    if isinstance(x, (Quantized, Sum)):
        return x.values() if isinstance(x, Quantized) else x.values
    return np.asarray(x, np.float32)


def _quantize(node: Node, inputs: list[Any]) -> NDArray[Any]:
    x, scale, zero = inputs
    limits = np.iinfo(zero.dtype)
    scale = np.float32(scale)
    point = int(zero)
    places = x.on_grid(scale, point) if isinstance(x, Sum) else np.rint(_floats(x) / scale) + point
    codes = np.rint(places).astype(np.int64)
    clipped: NDArray[Any] = np.clip(codes, limits.min, limits.max).astype(zero.dtype)
    return clipped


def _dequantize(node: Node, inputs: list[Any]) -> Quantized:
    codes, scale, *zero = inputs
    point = int(zero[0].reshape(-1)[0]) if zero else 0  # one for all channels: weights have zeros only
    return Quantized(codes.astype(np.int64), np.asarray(scale, np.float32), point)


def _convolve(node: Node, inputs: list[Any]) -> Sum:
    x, w, *biases = inputs
    if not isinstance(x, Quantized) or not biases:
        raise ExportError(f"{node.label}: a float layer; only integer layers can be checked exactly")
    (bias,) = biases
    strides = node.attributes["strides"].ints if "strides" in node.attributes else (1, 1)
    pads = node.attributes["pads"].ints if "pads" in node.attributes else (0, 0, 0, 0)
    groups = node.integer("group", 1)
    total = convolve(x.codes - x.zero, w.codes, strides, pads, groups)
    return _layer(total + bias.codes.reshape(1, -1, 1, 1), x, w, channel_shape=(1, -1, 1, 1))


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
            part = x[:, :, a : a + rows * strides[0] : strides[0], b : b + columns * strides[1] : strides[1]]
            part = part.reshape(n, groups, per_group, rows * columns).astype(np.float64)
            kernel = w[:, :, a, b].reshape(groups, outputs // groups, per_group).astype(np.float64)
            total += kernel @ part
    return total.reshape(n, outputs, rows, columns).astype(np.int64)


def _multiply(node: Node, inputs: list[Any]) -> Sum:
    x, w, *bias = inputs
    total = (x.codes - x.zero) @ w.codes.T + (bias[0].codes if bias else 0)
    return _layer(total, x, w, channel_shape=(1, -1))


def _layer(total: Codes, x: Quantized, w: Quantized, channel_shape: tuple[int, ...]) -> Sum:
    sums = total.astype(np.float32)
    product = (x.scale * w.scale.reshape(channel_shape)).astype(np.float32)
    return Sum(
        lambda scale, zero: np.rint(sums * (product / scale).astype(np.float32)) + zero, sums * product
    )


def _rectify(node: Node, inputs: list[Any]) -> Any:
    (x,) = inputs
    if isinstance(x, Sum):
        return Sum(lambda scale, zero: np.maximum(x.on_grid(scale, zero), zero), np.maximum(x.values, 0))
    return np.maximum(_floats(x), 0)


def _clip(node: Node, inputs: list[Any]) -> Any:
    x, low, high = inputs
    if isinstance(x, Sum):
        return Sum(
            lambda scale, zero: np.clip(x.on_grid(scale, zero), low / scale + zero, high / scale + zero),
            np.clip(x.values, low, high),
        )
    return np.clip(x, low, high)


def _add(node: Node, inputs: list[Any]) -> Any:
    a, b = inputs

    def on_grid(scale: np.float32, zero: int) -> NDArray[Any]:
        ra, rb = a.scale / scale, b.scale / scale
        fixed = np.float32(zero) - (ra * np.float32(a.zero) + rb * np.float32(b.zero))
        # float64 holds product and sum exactly, so the one rounding is that of a fused instruction
        inner = (b.codes * np.float64(rb) + np.float64(fixed)).astype(np.float32)
        return np.asarray(a.codes * np.float64(ra) + inner.astype(np.float64), np.float32)

    if not (isinstance(a, Quantized) and isinstance(b, Quantized)):
        raise ExportError(f"{node.label}: a float addition; only integer ones can be checked exactly")
    return Sum(on_grid, a.values() + b.values())


def _pool(node: Node, inputs: list[Any]) -> Sum:
    (x,) = inputs
    area = x.codes.shape[2] * x.codes.shape[3]
    sums = (x.codes - x.zero).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    return Sum(
        lambda scale, zero: np.rint(sums * (x.scale / (scale * np.float32(area)))) + zero,
        sums * (x.scale / np.float32(area)),
    )


def _max_pool(node: Node, inputs: list[Any]) -> NDArray[Any]:
    (x,) = inputs
    (i, j), strides = node.attributes["kernel_shape"].ints, node.attributes["strides"].ints
    pads = node.attributes["pads"].ints
    low = np.iinfo(x.dtype).min
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=low)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (i, j), (2, 3))
    return np.asarray(windows[:, :, :: strides[0], :: strides[1]].max(axis=(4, 5)))


def _reshape(node: Node, inputs: list[Any]) -> NDArray[Any]:
    x, shape = inputs
    return np.asarray(x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape.tolist())]))


def _cast(node: Node, inputs: list[Any]) -> NDArray[Any]:
    return np.asarray(inputs[0].astype(_DTYPES[node.integer("to", 1)]))


def _transpose(node: Node, inputs: list[Any]) -> NDArray[Any]:
    return np.asarray(inputs[0].transpose(node.attributes["perm"].ints))


_STEPS: Final[Mapping[str, Callable[[Node, list[Any]], Any]]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Clip": _clip,
    "Conv": _convolve,
    "Gemm": _multiply,
    "Relu": _rectify,
    "Add": _add,
    "GlobalAveragePool": _pool,
    "MaxPool": _max_pool,
    "Reshape": _reshape,
    "Cast": _cast,
    "Transpose": _transpose,
    "Sub": lambda node, inputs: _floats(inputs[0]) - _floats(inputs[1]),
    "Mul": lambda node, inputs: _floats(inputs[0]) * _floats(inputs[1]),
    "Div": lambda node, inputs: _floats(inputs[0]) / _floats(inputs[1]),
}
