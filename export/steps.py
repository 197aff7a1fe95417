"""An ONNX file as steps: layers with integer codes, grids of activations, and what lies between them.

Exporters write the same network in many ways. What they agree on is little: a layer has integer codes and a
scale for each output, a grid has a step and its smallest and largest code. Batch-norms, biases and gains
after a layer are one multiplication and one addition. Nodes that only convert or move values are passed over.

Shapes: o outputs of a layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.export.graph import LARGEST, attributes, image_inputs, initializers
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN

Array = NDArray[Any]
ON_CODE: Final = 1e-3
ALMOST_ONE: Final = 1e-3  # a factor that only keeps sums from the middle between two codes
_PASSED: Final = frozenset(
    {"Identity", "Cast", "Dropout", "DequantizeLinear", "Reshape", "Flatten", "Squeeze"}
)
_MOVED: Final = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"})  # of stored values
_MEANS: Final = frozenset({"GlobalAveragePool", "ReduceMean"})
_WINDOWS: Final = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step, after the steps that it reads.

    Attributes:
        kind: "image", "layer", "grid", "affine", "clip", "add", "max", "mean", or the operator's own name.
        label: The node, for messages.
        inputs: Steps that it reads.
        form: What must be the same in two networks that are one: window, stride, groups.
        codes: Of a layer: int64 (o, ...), or float64 where the weight is not quantized.
        scale: Of a layer's codes, float64 (o,); of a grid, its step, ().
        gain, shift: Of a layer or an affine step: by what is multiplied, then what is added, float64, () or
            (o,).
        low, high: Of a grid: smallest and largest code, without a zero point.
        floor, ceiling: Of a clip, which a rectifier is: the ends of what comes out. Of a grid, what was cut
            off before it where that is within the grid.
    """

    kind: str
    label: str
    inputs: "tuple[Step, ...]" = ()
    form: tuple[Any, ...] = ()
    codes: Array | None = None
    scale: Array | None = None
    gain: Array = field(default_factory=lambda: np.ones(()))
    shift: Array = field(default_factory=lambda: np.zeros(()))
    low: int = 0
    high: int = 0
    floor: float = -np.inf
    ceiling: float = np.inf


def steps_of(model: onnx.ModelProto) -> Step:
    """The last step of a graph with one output.

    Raises:
        ExportError: A node is of a kind that no network here has; it is named.
    """
    reader = _Reader(model)
    try:
        for (
            node
        ) in model.graph.node:  # in the order in which they compute, so that nothing is read in advance
            if reader.constant(node.output[0]) is None:
                reader.step(node.output[0])
        return reader.step(model.graph.output[0].name)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ExportError(f"{reader.at}: cannot be read as a quantized network: {error}") from None


class _Reader:
    """A graph, read from its output to its input."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.values = initializers(model)
        self.made = {out: node for node in model.graph.node for out in node.output}
        self.images = {value.name for value in image_inputs(model)}
        self.known: dict[str, Step] = {}
        self.at = "the graph"  # for messages
        self._constants: dict[str, Array | None] = {}

    def step(self, name: str) -> Step:
        """The step whose result a tensor is."""
        if name not in self.known:
            self.known[name] = self._step(name)
        return self.known[name]

    def _step(self, name: str) -> Step:
        if name in self.images:
            return Step("image", name)
        node = self.made[name]
        self.at = label = f"{node.op_type} {node.name or node.output[0]!r}"
        flags: Mapping[str, Any] = attributes(node)
        if node.op_type in ("Conv", "Gemm", "MatMul") and self.constant(node.input[1]) is not None:
            return self._layer(node, label, flags)
        if node.op_type == "QuantizeLinear":
            return self._grid(node, label)
        if node.op_type == "Quant" and node.domain == QONNX_DOMAIN:
            return self._quant(node, label)
        if node.op_type in ("Add", "Sub", "Mul", "Div", "BatchNormalization"):
            return self._arithmetic(node, label, flags)
        if node.op_type in ("Relu", "Clip"):
            return self._clip(node, label)
        if node.op_type in _PASSED or (node.op_type == "Transpose" and node.input[0] in self._pixels()):
            return self.step(node.input[0])
        inputs = tuple(self.step(x) for x in node.input if x and self.constant(x) is None)
        if node.op_type in _MEANS:
            return Step("mean", label, inputs)
        if node.op_type == "MaxPool":
            return Step("max", label, inputs, (*flags["kernel_shape"], *_window(flags)))
        return Step(node.op_type, label, inputs, (node.op_type, repr(sorted(flags.items()))))

    def _pixels(self) -> set[str]:
        """Tensors that are the image itself, converted to floats at most."""
        found = set(self.images)
        for node in (n for n in self.made.values() if n.op_type in ("Cast", "Div", "Mul")):
            found |= {*node.output} if node.input[0] in found else set()
        return found

    def _layer(self, node: onnx.NodeProto, label: str, flags: Mapping[str, Any]) -> Step:
        codes, scale = self._weight(node.input[1], label)
        if node.op_type == "Conv":
            form: tuple[Any, ...] = ("Conv", *_window(flags))
        else:
            codes = codes if flags.get("transB") else codes.T
            form = ("Gemm",)
            if flags.get("transA") or flags.get("alpha", 1.0) != 1.0 or flags.get("beta", 1.0) != 1.0:
                raise ExportError(f"{label}: transposes or scales what it reads")
        step = Step(
            "layer", label, (self.step(node.input[0]),), form, codes=codes,
            scale=np.broadcast_to(scale.reshape(-1), (len(codes),)),
        )  # fmt: skip
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return step if bias is None else replace(step, shift=bias.reshape(-1))

    def _weight(self, name: str, label: str) -> tuple[Array, Array]:
        """Codes and scale of a stored weight; of a float weight the weight itself, and 1."""
        node = self.made.get(name)
        if node is None:
            return self._stored(name), np.ones(1)
        if node.op_type == "DequantizeLinear":
            codes = self._stored(node.input[0])
            zero = self._stored(node.input[2]) if len(node.input) > 2 else np.zeros(1)
            return np.rint(codes - _along(zero, codes, node)).astype(np.int64), self._stored(node.input[1])
        if node.op_type == "Mul":
            a, b = (self._stored(x) for x in node.input)
            codes, scale = (a, b) if a.size >= b.size else (b, a)
            return np.rint(codes).astype(np.int64), scale
        if node.op_type == "Quant":
            values, scale = self._stored(node.input[0]), self._stored(node.input[1])
            low, high = self._range(node)
            return np.clip(np.rint(values / scale), low, high).astype(np.int64), scale
        if node.op_type == "Transpose":
            codes, scale = self._weight(node.input[0], label)
            return _turned(node, codes), scale
        if node.op_type in _MOVED:
            return self._weight(node.input[0], label)
        raise ExportError(f"{label}: its weight comes from {node.op_type}, not from stored codes")

    def _grid(self, node: onnx.NodeProto, label: str) -> Step:
        zero = self.constant(node.input[2]) if len(node.input) > 2 else None
        signed = zero is not None and self.values[node.input[2]].dtype == np.int8
        offset = int(zero.reshape(-1)[0]) if zero is not None else 0
        low, high = (-128, 127) if signed else (0, 255)
        scale = self._stored(node.input[1])
        if scale.size != 1:
            raise ExportError(f"{label}: {scale.size} steps for one tensor of activations, allowed is one")
        return _on_grid(self.step(node.input[0]), label, scale.reshape(()), low - offset, high - offset)

    def _quant(self, node: onnx.NodeProto, label: str) -> Step:
        scale = self._stored(node.input[1])
        zero = self._stored(node.input[2])
        if scale.size != 1 or zero.size != 1:
            raise ExportError(f"{label}: allowed is one step for a tensor, and one zero point")
        low, high = (code - int(zero.reshape(())) for code in self._range(node))
        return _on_grid(self.step(node.input[0]), label, scale.reshape(()), low, high)

    def _range(self, node: onnx.NodeProto) -> tuple[int, int]:
        flags = attributes(node)
        bits = int(self._stored(node.input[3]))
        return code_range(bits, signed=bool(flags["signed"]), narrow=bool(flags["narrow"]))

    def _arithmetic(self, node: onnx.NodeProto, label: str, flags: Mapping[str, Any]) -> Step:
        constants = [self.constant(x) for x in node.input]
        if node.op_type == "BatchNormalization":
            weight, bias, mean, variance = (self._stored(x) for x in node.input[1:5])
            gain = weight / np.sqrt(variance + flags.get("epsilon", 1e-5))
            return _affine(self.step(node.input[0]), label, gain, bias - mean * gain)
        dynamic = [x for x, c in zip(node.input, constants, strict=True) if c is None]
        if len(dynamic) == 2:
            kind = "add" if node.op_type == "Add" else node.op_type
            return Step(kind, label, (self.step(dynamic[0]), self.step(dynamic[1])))
        (value,) = (c.reshape(-1) if c.size > 1 else c.reshape(()) for c in constants if c is not None)
        before = self.step(dynamic[0])
        if node.op_type in ("Sub", "Div") and dynamic[0] != node.input[0]:
            raise ExportError(f"{label}: a stored value minus, or divided by, a computed one")
        if node.op_type in ("Add", "Sub"):
            return _affine(before, label, np.ones(()), value if node.op_type == "Add" else -value)
        gain = value if node.op_type == "Mul" else 1.0 / value
        if before.kind in ("add", "mean") and gain.size == 1 and abs(float(gain) - 1) < ALMOST_ONE:
            return before
        return _affine(before, label, gain, np.zeros(()))

    def _clip(self, node: onnx.NodeProto, label: str) -> Step:
        """A clip of values, or of codes: these are the ends of their grid."""
        before = self.step(node.input[0])
        if node.op_type == "Relu" and before.kind == "grid":
            return replace(before, low=max(before.low, 0))
        if node.op_type == "Relu":
            return Step("clip", label, (before,), (0.0, np.inf), floor=0.0)
        low, high = (float(self._stored(x)) for x in node.input[1:3])
        if max(low, -high) <= -LARGEST:  # as before layers with a float weight
            return before
        source = self.made.get(node.input[0])
        while source is not None and source.op_type in ("MaxPool", *_MOVED):
            source = self.made.get(source.input[0])
        if source is not None and source.op_type == "QuantizeLinear" and before.kind == "grid":
            zero = self.constant(source.input[2]) if len(source.input) > 2 else None
            offset = int(zero.reshape(-1)[0]) if zero is not None else 0
            return replace(
                before, low=max(before.low, int(low) - offset), high=min(before.high, int(high) - offset)
            )
        return Step("clip", label, (before,), (low, high), floor=low, ceiling=high)

    def _stored(self, name: str) -> Array:
        found = self.constant(name)
        if found is None:
            raise ExportError(f"{self.at}: {name!r} is computed and not stored")
        return found

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the image, float64; None of one that does."""
        if name not in self._constants:
            self._constants[name] = self._constant(name)
        return self._constants[name]

    def _constant(self, name: str) -> Array | None:
        if name in self.values:
            stored = np.asarray(self.values[name], np.float64)
            if np.isnan(stored).any():
                raise ExportError(f"{self.at}: {name!r} holds NaN")
            return stored
        node = self.made.get(name)
        if node is None or (not node.input and node.op_type != "Constant"):
            return None
        if node.op_type == "Constant":
            return np.asarray(onnx.numpy_helper.to_array(node.attribute[0].t), np.float64)
        inputs = [self.constant(x) for x in node.input if x]
        if any(x is None for x in inputs) or node.op_type not in _FOLDED:
            return None
        return np.asarray(_FOLDED[node.op_type](node, *inputs))


def _window(flags: Mapping[str, Any]) -> tuple[Any, ...]:
    """Stride, padding, dilation and groups, defaults written out."""
    return tuple(_plain(flags.get(name) or default) for name, default in _WINDOWS.items())


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _affine(before: Step, label: str, gain: Any, shift: Any) -> Step:
    """X * gain + shift, as a part of the layer before it where there is one."""
    if before.kind in ("layer", "affine"):
        gain, shift = before.gain * gain, before.shift * gain + shift
        return replace(before, gain=np.asarray(gain), shift=np.asarray(shift))
    return Step("affine", label, (before,), gain=np.asarray(gain), shift=np.asarray(shift))


def _on_grid(before: Step, label: str, scale: Array, low: int, high: int) -> Step:
    """A grid; a clip before it that ends on codes is its end, as is 0 where nothing below enters."""
    floor, ceiling = -np.inf, np.inf
    while before.kind == "clip":
        floor, ceiling = max(floor, before.floor), min(ceiling, before.ceiling)
        (before,) = before.inputs
    if before.kind == "grid" and before.low == 0:
        floor = max(floor, 0.0)
    if (end := _code(floor, scale)) is not None:
        low, floor = max(low, end), -np.inf
    if (end := _code(ceiling, scale)) is not None:
        high, ceiling = min(high, end), np.inf
    source = before
    while source.kind == "max":  # the largest of some codes is one of them
        (source,) = source.inputs
    if source.kind == "grid" and source.scale == scale and low <= source.low and source.high <= high:
        return before  # of codes that were only moved
    return Step("grid", label, (before,), scale=scale, low=low, high=high, floor=floor, ceiling=ceiling)


def _code(value: float, scale: Array) -> int | None:
    """The code of a value that has one."""
    if not np.isfinite(value):
        return None
    code = value / float(scale)
    return round(code) if abs(code - round(code)) < ON_CODE else None


def _along(values: Array, codes: Array, node: onnx.NodeProto) -> Array:
    """Zero points or scales, one for all codes or one for each along the node's axis."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * codes.ndim
    shape[int(attributes(node).get("axis", 1))] = -1  # type: ignore[call-overload]
    return values.reshape(shape)


def _turned(node: onnx.NodeProto, x: Array) -> Array:
    perm: Any = attributes(node).get("perm")
    return x.transpose(perm)


def _dequantized(node: onnx.NodeProto, codes: Array, scale: Array, zero: Array | None = None) -> Any:
    offset = np.zeros(()) if zero is None else _along(zero, codes, node)
    return (codes - offset) * _along(scale, codes, node)


def _quantized(node: onnx.NodeProto, x: Array, scale: Array, zero: Array | None = None) -> Any:
    offset = np.zeros(()) if zero is None else _along(zero, x, node)
    return np.rint(x / _along(scale, x, node)) + offset


_FOLDED: Final[Mapping[str, Callable[..., Any]]] = {
    "Identity": lambda node, x: x,
    "Cast": lambda node, x: x,
    "Clip": lambda node, x, low, high: np.clip(x, low, high),
    "Mul": lambda node, a, b: a * b,
    "Transpose": lambda node, x: _turned(node, x),
    "Reshape": lambda node, x, shape: x.reshape(shape.astype(np.int64)),
    "Squeeze": lambda node, x, axes=None: np.squeeze(x),
    "Unsqueeze": lambda node, x, axes: np.expand_dims(x, tuple(axes.astype(np.int64).tolist())),
    "DequantizeLinear": _dequantized,
    "QuantizeLinear": _quantized,
    "Quant": lambda node, x, scale, zero, bits: x,
}
