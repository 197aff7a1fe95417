"""Whether an integer file computes the same bits on every processor, proven from its graph alone.

onnxruntime has other kernels for each kind of processor. They compute the same where nothing shows their
differences:

    accumulators   add codes in 32 bits, in any order: no sum is larger
    pairs          x86 without VNNI adds two products of 8 bits in 16, and clips: no two are larger
    layers         sum * float32(input step * weight step / output step), rounded half to even: one product of
                   floats, the same everywhere if no order of the factors changes it, so for powers of two
    additions      in floats on x86, in fixed point on ARM, where halves are rounded away from zero: for every
    and means      pair of codes (every sum) the result is further from a half than any kernel errs
    inputs         element by element in floats: the same everywhere

Source: MLAS, the kernels of onnxruntime 1.31 (qladd, qlgavgpool, quantize, qgemm) for SSE4, AVX2, AVX512,
    VNNI, NEON and WebAssembly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import Node, OnnxFile
from qmu_edge.verify.onnx.operators import require_bounded

INT16: Final = 32767
INT32: Final = 2**31 - 1
FLOAT_BITS: Final = 24  # of the mantissa of float32
FIXED_BITS: Final = 21  # of the greater multiplier of ARM's addition, behind the point
CODES: Final = 256  # a rounded value is no larger, or it is clipped


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a file is not proven to compute the same everywhere.

    Attributes:
        tensor: The output of the node where results may differ, or the node's weight.
        why: What may differ.
        clips: Whether x86 without VNNI computes something else, by a lot: sums of two products are clipped.
    """

    tensor: str
    why: str
    clips: bool = False

    def __str__(self) -> str:
        """For people."""
        return f"{self.tensor}: {self.why}"


class Processors(StrEnum):
    """Where a file is proven to compute the same bits."""

    EVERY = "every processor"
    WIDE = "those that add products of 8 bits in 32: ARM, and x86 with VNNI"
    UNPROVEN = "not proven"


def processors_of(found: Sequence[Obstacle]) -> Processors:
    """Where a file with these obstacles computes the same.

    >>> str(processors_of([])), str(processors_of([Obstacle("w", "", clips=True), Obstacle("x", "")]))
    ('every processor', 'not proven')
    """
    if not found:
        return Processors.EVERY
    return Processors.WIDE if all(obstacle.clips for obstacle in found) else Processors.UNPROVEN


@dataclass(frozen=True, slots=True)
class _Codes:
    """A tensor of codes: the smallest and the largest one as stored, their grid, and if known all of them."""

    low: int
    high: int
    scale: NDArray[Any] | None = None
    zero: int = 0
    stored: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Sum:
    """What a layer, an addition or a mean computes: what stands in the way of rounding it to a grid.

    Attributes:
        rounded: Obstacles from the name of the rounded tensor, its step and its codes.
    """

    rounded: Callable[[str, float, _Codes], list[Obstacle]]


_Value = _Codes | _Sum | NDArray[Any] | None  # None: floats


def obstacles(file: OnnxFile) -> tuple[Obstacle, ...]:
    """What keeps a file from being proven to compute the same bits on every processor; nothing if it is.

    Args:
        file: From `read`; integer or packed. Any other has an obstacle, its first float operator.
    """
    walk = _Walk(file)
    for node in file.graph.nodes:
        try:
            walk.step(node)
        except ExportError as error:
            return (*walk.found, Obstacle(node.outputs[0], str(error)))
    for output in file.graph.outputs:
        walk.read_as_floats(output.name, walk.known.get(output.name))
    return tuple(walk.found)


class _Walk:
    """Goes through a graph with what is known of each tensor.

    Attributes:
        file: The file.
        known: Stored tensors, codes, sums; None for floats.
        found: Obstacles so far.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.known: dict[str, _Value] = {t.name: t.array() for t in file.graph.initializers.values()}
        self.file = file
        self.found: list[Obstacle] = []

    def step(self, node: Node) -> None:
        """Learn what a node puts out.

        Raises:
            ExportError: It computes with floats between layers.
        """
        make = _STEPS.get(node.op_type)
        if make is None:
            raise ExportError(f"{node.op_type} is no operator of an integer file")
        inputs = [self.known.get(name) for name in node.inputs]
        self.known[node.outputs[0]] = make(self, node, inputs)

    def quantize(self, node: Node, inputs: list[_Value]) -> _Value:
        """Codes of an image, or of a sum."""
        x, scale, zero = inputs
        limits = np.iinfo(_array(zero).dtype)
        codes = _Codes(int(limits.min), int(limits.max), zero=int(_array(zero)))
        if isinstance(x, _Sum):
            self.found += x.rounded(node.outputs[0], float(_array(scale)), codes)
        return codes

    def dequantize(self, _: Node, inputs: list[_Value]) -> _Value:
        """Codes with a grid."""
        x, scale, *zeros = inputs
        zero = int(_array(zeros[0]).reshape(-1)[0]) if zeros else 0
        if isinstance(x, np.ndarray):
            return _Codes(int(x.min()), int(x.max()), _array(scale), zero, x)
        codes = _codes(x)
        return _Codes(codes.low, codes.high, _array(scale), zero)

    def clip(self, _: Node, inputs: list[_Value]) -> _Value:
        """Fewer codes."""
        x, low, high = inputs
        if isinstance(x, _Codes):
            return _Codes(max(x.low, int(_array(low))), min(x.high, int(_array(high))), x.scale, x.zero)
        return x

    def layer(self, node: Node, inputs: list[_Value]) -> _Value:
        """Sums of codes times codes."""
        x, w, *biases = (_codes(each) for each in inputs)
        weights = _array(w.stored).astype(np.int64)
        bias = max((int(np.abs(_array(b.stored).astype(np.int64)).max()) for b in biases), default=0)
        self.found += _accumulated(node.inputs[1], weights.reshape(len(weights), -1), bias, x)
        return _Sum(lambda name, step, _: _scaled(name, _scale(x), step))

    def add(self, _: Node, inputs: list[_Value]) -> _Value:
        """Sums of two codes."""
        a, b = (_codes(x) for x in inputs)
        return _Sum(lambda name, step, codes: _added(name, a, b, step, codes))

    def mean(self, node: Node, inputs: list[_Value]) -> _Value:
        """Means of codes."""
        x = _codes(inputs[0])
        _, _, rows, columns = require_bounded(self.file).shapes[node.inputs[0]]
        return _Sum(lambda name, step, codes: _averaged(name, x, rows * columns, step, codes))

    def same(self, _: Node, inputs: list[_Value]) -> _Value:
        """Nothing else than before."""
        return inputs[0]

    def cast(self, node: Node, inputs: list[_Value]) -> _Value:
        """A stored tensor in a wider type, or an image in floats."""
        if isinstance(inputs[0], _Codes):
            raise ExportError("codes that become floats without their step")
        return inputs[0]

    def floats(self, node: Node, inputs: list[_Value]) -> _Value:
        """Of an image before the first layer, of logits behind the last one, element by element."""
        for x in inputs:
            self.read_as_floats(node.outputs[0], x)
        return None

    def read_as_floats(self, name: str, x: _Value) -> None:
        """Whether codes and sums become the same floats everywhere.

        Raises:
            ExportError: They are codes.
        """
        if isinstance(x, _Codes):
            raise ExportError("quantized tensors that meet in floats")
        if isinstance(x, _Sum):
            self.found += x.rounded(name, 1.0, _Codes(-INT32, INT32))


_STEPS: Final[Mapping[str, Callable[[_Walk, Node, list[_Value]], _Value]]] = {
    "QuantizeLinear": _Walk.quantize,
    "DequantizeLinear": _Walk.dequantize,
    "Clip": _Walk.clip,
    "Conv": _Walk.layer,
    "Gemm": _Walk.layer,
    "Add": _Walk.add,
    "GlobalAveragePool": _Walk.mean,
    "Relu": _Walk.same,
    "MaxPool": _Walk.same,
    "Reshape": _Walk.same,
    "Transpose": _Walk.same,
    "Cast": _Walk.cast,
    "Sub": _Walk.floats,
    "Mul": _Walk.floats,
    "Div": _Walk.floats,
}


def _accumulated(name: str, weights: NDArray[np.int64], bias: int, x: _Codes) -> list[Obstacle]:
    """Whether sums fit 32 bits, and pairs of products 16.

    Args:
        name: Of the weight.
        weights: Codes (o, m).
        bias: Largest magnitude of its codes.
        x: What enters; kernels subtract its zero point before or behind the sum, or take 128 off.

    >>> _accumulated("w", np.array([[64, 64], [-63, 127]]), 0, _Codes(0, 255, zero=128))
    []
    >>> found = _accumulated("w", np.array([[64, 65]]), 0, _Codes(0, 255, zero=128))
    >>> print(found[0])
    w: two products of up to 255 and 64 + 65 do not fit 16 bits; processors without VNNI clip their sum
    """
    largest, found = max(x.high, x.zero, 128), []
    sums = 2 * largest * np.abs(weights).sum(axis=1) + bias
    if (most := int(sums.max())) > INT32:
        found.append(Obstacle(name, f"a sum of up to {most:,} does not fit 32 bits"))
    top = np.sort(np.concatenate([np.zeros((len(weights), 2), np.int64), weights], axis=1), axis=1)
    pairs = np.stack([top[:, -2:], -top[:, :2]])  # the two largest of either sign
    worst = pairs.reshape(-1, 2)[pairs.sum(axis=2).argmax()]
    at_once = max(x.high, x.zero)
    if at_once * int(worst.sum()) > INT16:
        a, b = sorted(worst.tolist())
        why = f"two products of up to {at_once} and {a} + {b} do not fit 16 bits"
        found.append(Obstacle(name, f"{why}; processors without VNNI clip their sum", clips=True))
    return found


def _scaled(name: str, step: float, output: float) -> list[Obstacle]:
    """Whether the factor of a layer's sums is the same number in whichever order it is computed."""
    if _power_of_two(step) and _power_of_two(output):
        return []
    return [Obstacle(name, "a step that is no power of two, so that the order of factors shows")]


def _added(name: str, a: _Codes, b: _Codes, step: float, codes: _Codes) -> list[Obstacle]:
    """Whether the sum of any two codes is further from a half than any kernel errs.

    >>> half, small = (_Codes(0, 15, np.array(x)) for x in (0.5, 0.5 * (1 - 2**-12)))
    >>> print(*_added("y", half, half, 1.0, _Codes(0, 255)))
    y: a sum of two codes lies 0.0e+00 steps from a half, where kernels err by 0.0e+00
    >>> _added("y", small, small, 1.0, _Codes(0, 255))
    []
    """
    ratios = [_scale(x) / step for x in (a, b)]
    terms = [r * (np.arange(x.low, x.high + 1) - x.zero) for r, x in zip(ratios, (a, b), strict=True)]
    sums = np.add.outer(*terms)
    fixed = max(codes.zero, sum(r * x.zero for r, x in zip(ratios, (a, b), strict=True)))
    inner = fixed + max(r * x.high for r, x in zip(ratios, (a, b), strict=True))
    error = max(_float_error(ratios, [fixed, fixed, inner, CODES]), _fixed_error(ratios))
    return _near_a_half(name, "a sum of two codes", sums.reshape(-1), codes, error)


def _averaged(name: str, x: _Codes, pixels: int, step: float, codes: _Codes) -> list[Obstacle]:
    """The same of every sum of so many codes, divided by their number.

    >>> four = _Codes(0, 15, np.array(1.0))
    >>> print(*_averaged("y", four, 4, 1.0, _Codes(0, 255)))
    y: a mean of codes lies 0.0e+00 steps from a half, where kernels err by 0.0e+00
    """
    ratio = _scale(x) / (step * pixels)
    sums = np.arange((x.low - x.zero) * pixels, (x.high - x.zero) * pixels + 1)
    error = _float_error([ratio], [CODES, CODES, CODES if sums[-1] > 2**FLOAT_BITS else 0])
    return _near_a_half(name, "a mean of codes", sums * np.float64(ratio), codes, error)


def _near_a_half(
    name: str, what: str, values: NDArray[np.float64], codes: _Codes, error: float
) -> list[Obstacle]:
    """Whether a value, in steps, lies so close to a half that a kernel may round it to another code.

    Args:
        name: Of the rounded tensor.
        what: The values are.
        values: float64 (n,), exact.
        codes: What they are rounded to; beyond the last codes all are clipped.
        error: The largest of any kernel, in steps.
    """
    inside = values[(values > codes.low - codes.zero) & (values < codes.high - codes.zero)]
    nearest = float(np.abs(inside - np.floor(inside) - 0.5).min()) if inside.size else 0.5
    if nearest > error:
        return []
    return [Obstacle(name, f"{what} lies {nearest:.1e} steps from a half, where kernels err by {error:.1e}")]


def _float_error(ratios: list[float], magnitudes: list[float | int]) -> float:
    """The error of a sum in float32, in steps.

    Args:
        ratios: Of the operands' steps to the result's.
        magnitudes: Of what is rounded on the way, one for each rounding. Nothing is rounded where all that
            can occur is a multiple of one unit that is small enough.

    >>> _float_error([0.5, 0.25], [1000.0, 256.0]), _float_error([1 / 3], [1.0]) > 0
    (0.0, True)
    """
    unit = min(_last_bit(r) for r in ratios)
    return 0.0 if sum(magnitudes) <= unit * 2**FLOAT_BITS else sum(magnitudes) * 2.0**-FLOAT_BITS


def _fixed_error(ratios: list[float]) -> float:
    """The error of a sum in ARM's fixed point, whose multipliers are rounded.

    >>> _fixed_error([0.5, 0.25]), _fixed_error([0.3, 1.0]) > 0
    (0.0, True)
    """
    unit = 2.0 ** (np.floor(np.log2(max(ratios))) - FIXED_BITS)
    return 255 * float(sum(abs(r - np.rint(r / unit) * unit) for r in ratios))


def _last_bit(x: float) -> float:
    """The power of two of which a number is an odd multiple.

    >>> _last_bit(0.75), _last_bit(6.0)
    (0.25, 2.0)
    """
    mantissa, exponent = np.frexp(x)
    whole = int(mantissa * 2**53)
    return float((whole & -whole) * 2.0 ** (int(exponent) - 53))


def _power_of_two(x: float) -> bool:
    return x > 0 and float(np.frexp(x)[0]) == 0.5


def _scale(x: _Codes) -> float:
    if x.scale is None:
        raise ExportError("codes without a grid")
    return float(x.scale)


def _codes(x: _Value) -> _Codes:
    if not isinstance(x, _Codes):
        raise ExportError("floats between layers: their sums depend on the order")
    return x


def _array(x: _Value) -> NDArray[Any]:
    if not isinstance(x, np.ndarray):
        raise ExportError("a scale, a bias or a weight that is not stored")
    return x
