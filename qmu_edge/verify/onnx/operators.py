"""What running a file may take: the operators that the exporter writes, and how much they may compute.

A file of a kilobyte can ask for a loop of 2^62 rounds, or for tensors that fill the memory, and a runtime
does what it is told. So before a file runs, the shape of everything that it computes is worked out here. An
operator without a rule is refused, and so is a file that computes too much. No rule decodes more than the few
numbers that say a shape.

Source: operators of ONNX (github.com/onnx/onnx, docs/Operators.md), QONNX's Quant.
Differs: one output each; windows slide over two axes; no auto_pad and no ceil_mode.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN, Attribute, Node, OnnxFile
from qmu_edge.verify.onnx.weight_source import Names, names_of

MAX_COMPUTED: Final = 2**30  # elements of all tensors of a run, of which a runtime keeps the few it needs
MAX_PRODUCTS: Final = 2**37  # multiplications on one image; a ResNet-152 on 224 pixels takes 2**34
_SHAPE_NUMBERS: Final = 8
_TABLE: Final = 256  # entries, one for each code of a byte
_NOTSET: Final = Attribute("auto_pad", strings=(b"NOTSET",))

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of a file takes.

    Attributes:
        computed: Elements of all tensors that operators compute and lay out, on all images of the run.
        products: Multiplications, comparisons of a pooling window included.
        shapes: Of every tensor, by name.
    """

    computed: int
    products: int
    shapes: Mapping[str, Shape]


def require_bounded(file: OnnxFile, batch: int = 1) -> Work:
    """Work out what one run takes, and refuse what an honest file never needs.

    Args:
        file: From `read`.
        batch: Images of the run, where the file takes any number of them.

    Raises:
        ExportError: An operator that the exporter does not write, a shape that cannot be told, or too much.
    """
    names = names_of(file.graph)
    shapes = {name: tensor.dims for name, tensor in names.tensors.items()}
    shapes |= _inputs(file, shapes.keys(), batch)
    images = max([batch, *(v.dims[0] or 1 for v in file.graph.inputs if v.name not in names.tensors)])
    computed = products = 0
    for node in file.graph.nodes:
        if node.op_type == "Constant" and node.outputs and node.outputs[0] in names.tensors:
            continue
        shape, work = _followed(node, shapes, names, file.path)
        shapes[node.outputs[0]] = shape
        windows = _windows(node, shape, shapes)
        computed, products = computed + math.prod(shape) + windows, products + work
        if computed > MAX_COMPUTED or products > MAX_PRODUCTS * images:
            raise ExportError(
                f"{file.path}: up to {node.label} a run computes {computed} elements with {products} "
                f"products on {images} images; allowed {MAX_COMPUTED}, and {MAX_PRODUCTS} on each"
            )
    return Work(computed, products, shapes)


def _windows(node: Node, shape: Shape, shapes: Mapping[str, Shape]) -> int:
    """Elements of what a convolution sees at every place; runtimes lay it out, or addresses of as many."""
    if node.op_type != "Conv":
        return 0
    n, _, *places = shape
    return n * math.prod(places) * math.prod(shapes[node.inputs[1]][1:])


def _inputs(file: OnnxFile, stored: Collection[str], batch: int) -> dict[str, Shape]:
    """Shapes of what is fed; only the number of images may be open."""
    found = {}
    for value in file.graph.inputs:
        if value.name not in stored:
            n, *sizes = value.dims or (0,)
            shape = (batch if n is None else n, *(0 if size is None else size for size in sizes))
            if min(shape) < 1:
                raise ExportError(
                    f"{file.path}: input {value.name!r} of shape {value.dims}; allowed: sizes from 1"
                )
            found[value.name] = shape
    return found


def _followed(node: Node, shapes: Mapping[str, Shape], names: Names, path: Path) -> tuple[Shape, int]:
    """Shape of what an operator computes, and its products."""
    rule = _QONNX_RULES.get(node.op_type) if node.domain == QONNX_DOMAIN else RULES.get(node.op_type)
    if rule is None:
        raise ExportError(
            f"{path}: operator {node.label}; allowed: {', '.join(sorted(RULES))}, and QONNX's Quant"
        )
    try:
        (_,) = filter(None, node.outputs)
        return rule(node, [shapes[name] for name in node.inputs if name], names)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        given = [shapes.get(name) for name in node.inputs]
        raise ExportError(f"{path}: {node.label}: of inputs {given} its shape cannot be told") from None


def _same(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    return inputs[0], 0


def _broadcast(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    return np.broadcast_shapes(*inputs), 0


def _conv(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (n, _, *sizes), (outputs, *window) = inputs[:2]
    shape = (n, outputs, *_slid(node, sizes, window[1:]))
    return shape, math.prod(shape) * math.prod(window)


def _max_pool(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (n, channels, *sizes), window = inputs[0], _numbers(node, "kernel_shape", ())
    shape = (n, channels, *_slid(node, sizes, window))
    return shape, math.prod(shape) * math.prod(window)


def _slid(node: Node, sizes: Sequence[int], window: Sequence[int]) -> Shape:
    """How often a window fits: (padded size - extent) // stride + 1 along each of two axes."""
    (height, width), (i, j) = sizes, window
    top, left, bottom, right = _numbers(node, "pads", (0, 0, 0, 0))
    strides, dilations = _numbers(node, "strides", (1, 1)), _numbers(node, "dilations", (1, 1))
    if node.integer("ceil_mode", 0) or node.attributes.get("auto_pad", _NOTSET).strings != _NOTSET.strings:
        raise ValueError("another way to count")
    padded = (height + top + bottom, width + left + right)
    return tuple(
        max(0, (size - dilation * (extent - 1) - 1) // stride + 1)
        for size, extent, stride, dilation in zip(padded, (i, j), strides, dilations, strict=True)
    )


def _numbers(node: Node, name: str, default: Shape) -> Shape:
    """A list attribute of numbers that are not negative."""
    found = node.attributes[name].ints if name in node.attributes else default
    if min(found, default=0) < 0:
        raise ValueError("a negative number")
    return found


def _pool_all(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    n, channels, *sizes = inputs[0]
    return (n, channels, *(1 for _ in sizes)), math.prod(inputs[0])


def _mean(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (x, *_), rank = inputs, len(inputs[0])
    axes = {a % rank for a in _constant(node, 1, "axes", names) or range(rank)}
    kept = node.integer("keepdims", 1)
    return tuple(1 if i in axes else s for i, s in enumerate(x) if kept or i not in axes), math.prod(x)


def _gemm(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (m, k), (rows, columns) = inputs[:2]
    m, k = (k, m) if node.integer("transA", 0) else (m, k)
    shape = (m, rows if node.integer("transB", 0) else columns)
    return shape, math.prod(shape) * k


def _matmul(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (*a, m, k), (*b, _, columns) = inputs
    shape = (*np.broadcast_shapes(tuple(a), tuple(b)), m, columns)
    return shape, math.prod(shape) * k


def _reshape(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    wanted = _constant(node, 1, "shape", names)
    if node.integer("allowzero", 0) and 0 in wanted:
        raise ValueError("zeros that mean zero")
    sizes = [inputs[0][i] if s == 0 else s for i, s in enumerate(wanted)]
    open_at, total = [i for i, s in enumerate(sizes) if s == -1], math.prod(inputs[0])
    for i in open_at:
        sizes[i] = total // math.prod(s for s in sizes if s != -1)
    if len(open_at) > 1 or math.prod(sizes) != total or min(sizes, default=1) < 0:
        raise ValueError("another number of elements")
    return tuple(sizes), 0


def _flatten(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    axis = node.integer("axis", 1) % (len(inputs[0]) + 1)
    return (math.prod(inputs[0][:axis]), math.prod(inputs[0][axis:])), 0


def _transpose(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    x = inputs[0]
    order = _numbers(node, "perm", tuple(range(len(x)))[::-1])
    if sorted(order) != [*range(len(x))]:
        raise ValueError("no order of the axes")
    return tuple(x[i] for i in order), 0


def _concat(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    axis, first = node.integer("axis", 0) % len(inputs[0]), inputs[0]
    if any(
        len(x) != len(first) or x[:axis] + x[axis + 1 :] != first[:axis] + first[axis + 1 :] for x in inputs
    ):
        raise ValueError("shapes that do not fit")
    return (*first[:axis], sum(x[axis] for x in inputs), *first[axis + 1 :]), 0


def _gather(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    (table, places) = inputs
    if node.integer("axis", 0) or len(table) != 1 or table[0] > _TABLE or node.inputs[0] in names.dynamic:
        raise ValueError("no table")
    return places, 0


def _slice(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    starts, ends, axes, steps = (_constant(node, at, "", names) for at in range(1, 5))
    shape = list(inputs[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not (0 <= start < end <= shape[axis] and step > 0):
            raise ValueError("a part that is not inside")
        shape[axis] = -(-(end - start) // step)
    return tuple(shape), 0


def _pad(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    pads, x = _constant(node, 1, "pads", names), inputs[0]
    if len(pads) != 2 * len(x) or min(pads) < 0 or any(pads[i] for i in (0, len(x))):
        raise ValueError("no padding of each image")
    return tuple(s + a + b for s, a, b in zip(x, pads, pads[len(x) :], strict=False)), 0


def _resize(node: Node, inputs: list[Shape], names: Names) -> tuple[Shape, int]:
    sizes, axes = _constant(node, 3, "sizes", names), _numbers(node, "axes", ())
    if axes != (2, 3) or len(sizes) != 2 or min(sizes) < 1:
        raise ValueError("no size of each image")
    return (*inputs[0][:2], *sizes), 0


def _constant(node: Node, at: int, attribute: str, names: Names) -> list[int]:
    """Numbers that are an input or an attribute, depending on the opset; none where they are neither."""
    if len(node.inputs) <= at or not node.inputs[at]:
        return [*node.attributes[attribute].ints] if attribute in node.attributes else []
    stored = names.constant(node.inputs[at])
    if stored is None or stored.size > _SHAPE_NUMBERS or stored.dtype.kind != "i":
        raise ValueError("numbers that are not stored")
    return [int(number) for number in stored.reshape(-1)]


Rule = Callable[[Node, list[Shape], Names], tuple[Shape, int]]
RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("Cast", "Clip", "DequantizeLinear", "Identity", "QuantizeLinear", "Relu"), _same),
    **dict.fromkeys(("Elu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Tanh"), _same),
    **dict.fromkeys(("LayerNormalization", "Softmax", "Sqrt"), _same),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), _broadcast),
    "AveragePool": _max_pool,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool_all,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Pad": _pad,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceSum"), _mean),
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Transpose": _transpose,
}
_QONNX_RULES: Final[Mapping[str, Rule]] = {"Quant": _broadcast}
