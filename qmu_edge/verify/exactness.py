"""Whether an integer file computes the same bits on every processor, proven from its graph alone.

What is proven is what onnxruntime computes with all its optimizations, as by default. They turn the patterns
that the exporter writes into integer kernels, and of nothing else is anything proven. onnxruntime has other
kernels for each kind of processor. They compute the same where nothing shows their differences:

    accumulators   add codes in 32 bits, in any order: no sum is larger
    pairs          x86 without VNNI adds two products of 8 bits in 16, and clips: no two are larger
    layers         sum * float32(input step * weight step / output step), rounded half to even: one product of
                   floats, the same everywhere if no order of the factors changes it, so for powers of two
    products       of two codes are exact in floats, and a power of two moves them to the next grid, where
                   all kernels round half to even
    additions      in floats on x86, in fixed point on ARM, where halves are rounded away from zero: for every
    and means      pair of codes (every sum) the result is further from a half than any kernel errs
    joined         every code is moved to the next grid by itself, in floats, half to even
    matrices       of codes, one times the other: as layers
    tables         are read by code
    floats         of codes, one by one, as IEEE 754 says; sums of those where no order rounds anything. Of
                   roots nothing is proven
    inputs         element by element in floats: the same everywhere

`rounding.py` says what each does, `known.py` what is known of a tensor.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from qmu_edge.errors import ExportError
from qmu_edge.verify.known import (
    FROM_CODES,
    ROOT,
    Floats,
    Found,
    Logits,
    Place,
    Sum,
    Value,
    activation,
    array_in,
    codes_in,
    combined,
    dequantized,
    floats_in,
    place_of,
    stored_in,
    summed,
)
from qmu_edge.verify.onnx.graph import ELEMENT_TYPES, QONNX_DOMAIN, Node, OnnxFile
from qmu_edge.verify.onnx.operators import require_bounded
from qmu_edge.verify.rounding import (
    INT32,
    Codes,
    Obstacle,
    accumulated,
    added,
    averaged,
    held,
    multiplied,
    scaled,
    step_of,
)  # fmt: skip

_NEAREST: Final = {"mode": (b"nearest",), "nearest_mode": (b"floor",)}
UPSAMPLED: Final = {"axes": (2, 3), "coordinate_transformation_mode": (b"asymmetric",), **_NEAREST}
_NOT_OURS: Final = (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError)


def obstacles(file: OnnxFile) -> tuple[Obstacle, ...]:
    """What keeps a file from being proven to compute the same bits on every processor; nothing if it is.

    Args:
        file: From `read`; integer or packed. Any other has an obstacle, its first float operator.
    """
    walk = _Walk(file)
    at = ""
    try:
        for node in file.graph.nodes:
            at = node.label
            walk.step(node)
        for output in file.graph.outputs:
            at = output.name
            walk.read_as_floats(output.name, walk.known.get(output.name))
    except ExportError as error:
        return (*walk.found, Obstacle(at, str(error)))
    except _NOT_OURS:
        return (*walk.found, Obstacle(at, "not as the exporter writes it"))
    return tuple(walk.found)


class _Walk:
    """Goes through a graph with what is known of each tensor.

    Attributes:
        file: The file.
        known: Stored tensors, codes, sums, logits; None for an image in floats.
        readers: How many nodes read each tensor.
        rounded: Tensors that a QuantizeLinear reads, or a rectifier before it.
        found: Obstacles so far.
        zeroless: Values that were dequantized without a zero point.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.known: dict[str, Value] = {t.name: stored_in(t) for t in file.graph.initializers.values()}
        self.readers = Counter(name for node in file.graph.nodes for name in node.inputs)
        self.file = file
        self.rounded = {n.inputs[0] for n in file.graph.nodes if n.op_type in ("QuantizeLinear", "Relu")}
        self.found: list[Obstacle] = []
        self.zeroless: set[str] = set()

    def step(self, node: Node) -> None:
        """Learn what a node puts out.

        Raises:
            ExportError: It is no pattern of which anything is proven.
        """
        make = _STEPS.get(node.op_type)
        if make is None or node.domain == QONNX_DOMAIN:
            raise ExportError(f"{node.op_type} is no operator of an integer file")
        if unread := node.attributes.keys() - set(_ATTRIBUTES.get(node.op_type, ())):
            raise ExportError(f"{', '.join(sorted(unread))}: an attribute that the exporter does not write")
        inputs = [self.known.get(name) for name in node.inputs]
        if self._in_floats(node, inputs):
            make = _Walk.one_by_one
        if any(isinstance(x, Sum) and self.readers[n] > 1 for x, n in zip(inputs, node.inputs, strict=True)):
            raise ExportError("a sum that two nodes read")
        (output,) = node.outputs
        self.known[output] = make(self, node, inputs)

    def _in_floats(self, node: Node, inputs: list[Value]) -> bool:
        """Whether a node computes floats of codes, and no pattern that becomes an integer kernel."""
        of_codes = [isinstance(x, Codes) and x.scale is not None for x in inputs]
        known = any(of_codes) or any(isinstance(x, Floats) for x in inputs)
        if node.op_type not in FROM_CODES or not known:
            return False
        return not all(of_codes) or node.op_type not in ("Add", "Mul") or node.outputs[0] not in self.rounded

    def one_by_one(self, node: Node, inputs: list[Value]) -> Value:
        """Floats of codes."""
        x, *others = (floats_in(v) for v in inputs[: 1 if node.op_type.startswith("Reduce") else None])
        if node.op_type == "Cast":
            return place_of(x, ELEMENT_TYPES[node.integer("to", 1)].name)
        if node.op_type.startswith("Reduce"):
            if node.integer("keepdims", 1) != 1 or list(array_in(inputs[1])) != [-1]:
                raise ExportError("not along the last axis alone")
            count = self.shapes[node.inputs[0]][-1]
            return replace(x, largest_of=node.inputs[0]) if node.op_type == "ReduceMax" else summed(x, count)
        if node.op_type == "Sqrt":
            self.found.append(Obstacle(node.outputs[0], ROOT))
            return Floats(0.0, np.inf)
        if not others:  # a rectifier
            return Floats(max(0.0, x.low), max(0.0, x.high), x.unit)
        found = combined(node.op_type, x, *others)
        below = node.op_type == "Sub" and others[0].largest_of == node.inputs[0]
        return replace(found, high=0.0) if below else found

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every tensor, for one image."""
        return require_bounded(self.file).shapes

    def matrices(self, node: Node, inputs: list[Value]) -> Value:
        """Sums of codes times codes, none of which is stored."""
        a, b = (activation(x) for x in inputs)
        count, sizes = self.shapes[node.inputs[0]][-1], [max(x.high - x.zero, x.zero - x.low) for x in (a, b)]
        if (most := count * sizes[0] * sizes[1]) > INT32:
            self.found.append(Obstacle(node.outputs[0], f"a sum of up to {most:,} does not fit 32 bits"))
        return Sum(lambda name, step, codes: multiplied(name, a, b, step, codes))

    def quantize(self, node: Node, inputs: list[Value]) -> Value:
        """Codes of an image, or of a sum."""
        x, scale, zero = inputs
        step, offset = held(array_in(scale)), array_in(zero)
        if offset.dtype != np.uint8 or step.ndim or offset.ndim:
            raise ExportError("codes that are not uint8 on one grid")
        codes = Codes(0, 255, zero=int(offset))
        if isinstance(x, Sum):
            if x.rectified and codes.zero:
                raise ExportError("a rectifier before a grid whose zero is not its smallest code")
            self.found += x.rounded(node.outputs[0], float(step), codes)
        elif x is not None and not isinstance(x, Floats):
            raise ExportError("floats between layers: their sums depend on the order")
        return codes

    def dequantize(self, node: Node, inputs: list[Value]) -> Value:
        """Codes with a grid."""
        x, scale, *zeros = inputs
        step = held(array_in(scale), weights=isinstance(x, np.ndarray))
        offset = array_in(zeros[0]) if zeros else np.zeros((), np.uint8)
        if not zeros:
            self.zeroless.add(node.outputs[0])
        if isinstance(x, np.ndarray):
            if step.ndim and (node.integer("axis", 1) or step.shape != x.shape[:1]):
                raise ExportError("scales that are not one for each output")
            one_grid = x.dtype == np.uint8 and offset.ndim == step.ndim == 0  # as activations have it
            if (offset.any() or x.dtype.kind != "i") and not one_grid:
                raise ExportError("stored codes with a zero point, or without a sign")
            return Codes(int(x.min()), int(x.max()), step, int(offset) if one_grid else 0, x)
        if isinstance(x, Found) and not offset.ndim:
            x = Codes(x.low, x.high, zero=int(offset))
        codes = codes_in(x)
        if codes.scale is not None or step.ndim or offset.ndim or int(offset) != codes.zero:
            raise ExportError("codes that get another grid")
        return Codes(codes.low, codes.high, step, codes.zero)

    def clip(self, _: Node, inputs: list[Value]) -> Value:
        """Fewer codes."""
        x, low, high = inputs
        if x is None:
            return None
        codes = codes_in(x)
        least, most = max(codes.low, int(array_in(low))), min(codes.high, int(array_in(high)))
        if codes.scale is not None or least > most:
            raise ExportError("a Clip of no codes")
        return Codes(least, most, zero=codes.zero)

    def layer(self, node: Node, inputs: list[Value]) -> Value:
        """Sums of codes times codes."""
        x, (w, *biases) = activation(inputs[0]), (dequantized(each) for each in inputs[1:])
        if node.op_type == "Gemm" and _flags(node) != (0, 1, (1.0,), (1.0,)):
            raise ExportError("a Gemm that is not x times the transposed weight")
        if node.op_type == "Gemm" and node.inputs[1] in self.zeroless:
            raise ExportError("a Gemm whose weight has no zero point, which is computed in floats")
        if [array_in(each.stored).dtype for each in (w, *biases)] != [np.int8, *(np.int32 for _ in biases)]:
            raise ExportError("a weight that is not int8, or a bias that is not int32")
        weights = array_in(w.stored).astype(np.int64)
        units = (array_in(x.scale) * array_in(w.scale)).astype(np.float32)
        if any((array_in(b.scale) != units).any() for b in biases):
            raise ExportError("a bias that is not on the grid of its layer's sums")
        bias = max((int(np.abs(array_in(b.stored).astype(np.int64)).max()) for b in biases), default=0)
        self.found += accumulated(node.inputs[1], weights.reshape(len(weights), -1), bias, x)
        return Sum(lambda name, step, _: scaled(name, step_of(x), step))

    def add(self, _: Node, inputs: list[Value]) -> Value:
        """Sums of two codes; one may be stored."""
        a, b = _one_computed(inputs)
        return Sum(lambda name, step, codes: added(name, a, b, step, codes))

    def multiply(self, node: Node, inputs: list[Value]) -> Value:
        """Products of two codes; or of floats before the first layer, or behind the last one."""
        if not all(isinstance(x, Codes) for x in inputs):
            return self.floats(node, inputs)
        a, b = _one_computed(inputs)
        return Sum(lambda name, step, codes: multiplied(name, a, b, step, codes))

    def join(self, _: Node, inputs: list[Value]) -> Value:
        """Codes of several grids, one behind the other."""
        parts = [activation(x) for x in inputs]
        return Sum(lambda name, step, _: [o for x in parts for o in scaled(name, step_of(x), step)][:1])

    def gather(self, _: Node, inputs: list[Value]) -> Value:
        """Codes or floats out of a table."""
        table, place = array_in(inputs[0]), inputs[1]
        if table.dtype == np.float32 and isinstance(place, Place) and place.high < len(table):
            return floats_in(table)
        whole = table.dtype == np.uint8 and table.ndim == 1
        if not whole or not isinstance(place, Place) or place.high >= len(table):
            raise ExportError("a Gather that is no table of codes")
        return Found(int(table.min()), int(table.max()))

    def mean(self, node: Node, inputs: list[Value]) -> Value:
        """Means of codes."""
        x = activation(inputs[0])
        _, _, rows, columns = self.shapes[node.inputs[0]]
        return Sum(lambda name, step, codes: averaged(name, x, rows * columns, step, codes))

    def rectify(self, _: Node, inputs: list[Value]) -> Value:
        """A sum that is not negative."""
        (x,) = inputs
        if not isinstance(x, Sum):
            raise ExportError("floats between layers: their sums depend on the order")
        return replace(x, rectified=True)

    def moved(self, _: Node, inputs: list[Value]) -> Value:
        """An image, codes of activations, or logits, in another order."""
        x = inputs[0]
        if isinstance(x, Found | Logits):
            return x
        if isinstance(x, Floats):
            return replace(x, largest_of="")
        if x is not None and (not isinstance(x, Codes) or x.scale is not None):
            raise ExportError("a tensor in another order that is neither an image nor codes")
        return x

    def pool(self, node: Node, inputs: list[Value]) -> Value:
        """The largest of each window; one with gaps may lie beside the image altogether."""
        x = self.moved(node, inputs)
        gaps = "dilations" in node.attributes and set(node.attributes["dilations"].ints) != {1}
        return replace(x, low=0) if gaps and isinstance(x, Codes | Found) else x

    def pad(self, node: Node, inputs: list[Value]) -> Value:
        """The same with another code around it."""
        x, (_, _, value) = self.moved(node, inputs), inputs
        if not isinstance(x, Codes | Found):
            return x
        code = int(array_in(value))
        return replace(x, low=min(x.low, code), high=max(x.high, code))

    def resize(self, node: Node, inputs: list[Value]) -> Value:
        """The same with every pixel repeated."""
        given = {name: a.ints or a.strings for name, a in node.attributes.items()}
        if given != UPSAMPLED or any(node.inputs[1:3]):
            raise ExportError("a Resize that does more than repeat pixels")
        return self.moved(node, inputs)

    def cast(self, node: Node, inputs: list[Value]) -> Value:
        """A stored tensor in a wider type, codes as places in a table, or an image in floats."""
        x, element = inputs[0], ELEMENT_TYPES[node.integer("to", 1)]
        if isinstance(x, Codes | Found) and element.name == "INT32":
            if isinstance(x, Codes) and x.scale is not None:
                raise ExportError("values that are no places in a table")
            return Place(x.high)
        if isinstance(x, np.ndarray) and element.name in ("FLOAT", "INT8", "INT32"):
            wide = x.astype(element.word)
            if (wide != x).any():
                raise ExportError("a Cast that changes what is stored")
            return wide
        if x is not None or element.name != "FLOAT":
            raise ExportError("codes that become floats without their step, or an image in another type")
        return x

    def floats(self, node: Node, inputs: list[Value]) -> Value:
        """Of an image before the first layer, of logits behind the last one, element by element."""
        for x in inputs:
            self.read_as_floats(node.outputs[0], x)
        return Logits() if any(isinstance(x, Sum | Logits) for x in inputs) else None

    def read_as_floats(self, name: str, x: Value) -> None:
        """Whether codes and sums become the same floats everywhere.

        Raises:
            ExportError: They are codes.
        """
        if isinstance(x, Codes | Place | Found):
            raise ExportError("quantized tensors that meet in floats")
        if isinstance(x, Sum):
            self.found += x.rounded(name, 1.0, Codes(-INT32, INT32))


def _one_computed(inputs: list[Value]) -> tuple[Codes, Codes]:
    """Two tensors on grids, of which at most one is stored."""
    a, b = (dequantized(x) for x in inputs)
    return (activation(a), b) if b.stored is not None else (a, activation(b))


def _flags(node: Node) -> tuple[Any, ...]:
    given = {name: node.attributes[name].floats for name in ("alpha", "beta") if name in node.attributes}
    factors = (given.get(name, (1.0,)) for name in ("alpha", "beta"))
    return (node.integer("transA", 0), node.integer("transB", 0), *factors)


_STEPS: Final[Mapping[str, Callable[[_Walk, Node, list[Value]], Value]]] = {
    "QuantizeLinear": _Walk.quantize,
    "DequantizeLinear": _Walk.dequantize,
    "Clip": _Walk.clip,
    "Conv": _Walk.layer,
    "Gemm": _Walk.layer,
    "Add": _Walk.add,
    "MatMul": _Walk.matrices,
    **dict.fromkeys(("ReduceMax", "ReduceSum", "Sqrt"), _Walk.one_by_one),
    "GlobalAveragePool": _Walk.mean,
    "Concat": _Walk.join,
    "Gather": _Walk.gather,
    "Relu": _Walk.rectify,
    "MaxPool": _Walk.pool,
    "Pad": _Walk.pad,
    "Resize": _Walk.resize,
    **dict.fromkeys(("Reshape", "Slice", "Transpose"), _Walk.moved),
    "Cast": _Walk.cast,
    "Sub": _Walk.floats,
    "Mul": _Walk.multiply,
    "Div": _Walk.floats,
}
# What is read here, or says only where things lie. No other operator has any.
_WINDOW: Final = ("dilations", "kernel_shape", "pads", "strides")
_ATTRIBUTES: Final[Mapping[str, Sequence[str]]] = {
    "Cast": ("to",),
    "Concat": ("axis",),
    "Conv": (*_WINDOW, "group"),
    "DequantizeLinear": ("axis",),
    "Gemm": ("alpha", "beta", "transA", "transB"),
    "MaxPool": _WINDOW,
    **dict.fromkeys(("ReduceMax", "ReduceSum"), ("keepdims",)),
    "Resize": tuple(UPSAMPLED),
    "Transpose": ("perm",),
}
