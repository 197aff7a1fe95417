"""The latent-weight gate: only integer codes, or codes times scale, may leave.

Quantization-aware training keeps float weights behind every code, and current exporters can ship
them (`slice_1 -> QuantizeLinear -> ...`), with them the residue of the data that was to be
forgotten. For every weight, that is every constant that reaches the first two inputs of Conv,
ConvTranspose, Gemm or MatMul, the gate walks back to the stored tensor and looks at its values:

    integer tensor                        the codes fit the declared bits            form "codes"
    float tensor directly before Quant    on the grid, and quantizing changes nothing  form "grid"
    float tensor before QuantizeLinear    refused: these are the latent weights      form "latent"
    float tensor without quantizer        refused, unless metadata lists it          form "float"

The metadata property `qmu_edge` is JSON: {"weight_bits": {initializer name: bits},
"float_weights": [initializer name]}. Without an entry the storage type's width counts. A scale must
be finite, not zero (positive before Quant) and shared along all axes but one: a scale per weight
could hold the weights.

Source: QONNX IntQuant (github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops/intquant_v1.md).
Differs: only the rounding mode ROUND; one zero point; 2 to 8 bits; a zero code is written +0.0,
    because -0.0 would tell the sign of the latent weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import METADATA_KEY, Node, OnnxFile
from qmu_edge.verify.onnx.weight_source import Names, is_quant, names_of

GRID_TOLERANCE: Final = 1e-3
WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class WeightFinding:
    """One weight tensor of one layer.

    Attributes:
        name: The stored tensor.
        layer: The operator it feeds.
        form: "codes", "grid", "latent", "float", or "unknown" when it cannot be traced.
        elements: How many weights.
        bits: Width of a code; 0 where there are no codes.
        declared: Whether the file says `bits` itself; else it is the storage type's width.
        distinct: Most distinct values found in one scale group.
        allowed: Most distinct values allowed in one scale group, 2**bits.
        problem: Empty when the weight passes.
    """

    name: str
    layer: str
    form: str
    elements: int = 0
    bits: int = 0
    declared: bool = False
    distinct: int = 0
    allowed: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Residue:
    """A float tensor that stays in the file: batch norm, scale, bias; `bits` are per element."""

    name: str
    elements: int
    bits: int


@dataclass(frozen=True, slots=True)
class LatentReport:
    """What the gate saw.

    Attributes:
        weights: One entry for each weight of each layer.
        float_residue: Every stored float tensor that is no checked code-times-scale weight.
        other_bytes: File bytes that are no tensor values: structure, names, metadata.
        problems: Empty when the file may leave.
    """

    weights: tuple[WeightFinding, ...]
    float_residue: tuple[Residue, ...]
    other_bytes: int
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Tell whether the file may leave."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Declared:
    """What the metadata property says about the weights."""

    bits: Mapping[str, int]
    floats: frozenset[str]


def code_range(bits: int, *, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Give the smallest and the largest code.

    >>> code_range(4, signed=True), code_range(4, signed=True, narrow=True)
    ((-8, 7), (-7, 7))
    >>> code_range(2, signed=False), code_range(2, signed=False, narrow=True)
    ((0, 3), (0, 2))
    """
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def quantize(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.float32],
    limits: tuple[int, int],
) -> NDArray[np.float32]:
    """Quantize and dequantize as QONNX's Quant does, in float32, rounding halves to even.

    Args:
        x: float32, any shape.
        scale: float32, broadcasts to x.
        zero_point: float32, broadcasts to x.
        limits: See `code_range`.

    Returns:
        float32 shaped like x, zeros always positive.

    >>> one, zero = np.float32([0.5]), np.float32([0])
    >>> quantize(np.float32([0.5, 0.7, 9.0]), one, zero, (-8, 7)).tolist()  # codes 1, 1, 7
    [0.5, 0.5, 3.5]
    """
    codes = np.round(np.clip(x / scale + zero_point, *limits))
    return np.asarray((codes - zero_point) * scale + np.float32(0), dtype=np.float32)


def most_distinct(values: NDArray[Any], axis: int | None) -> int:
    """Count the distinct values of the slice along `axis` that has most; of all when None.

    >>> most_distinct(np.array([[1, 1, 2], [3, 3, 3]]), 0), most_distinct(np.array([1, 2, 1]), None)
    (2, 2)
    """
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0)
    if values.size == 0:
        return 0
    rows = np.sort(rows.reshape(rows.shape[0], -1), axis=1)
    return int(1 + (rows[:, 1:] != rows[:, :-1]).sum(axis=1).max())


def scale_problem(scale: NDArray[Any] | None, *, signed: bool = False) -> str:
    """Say what is wrong with a scale; empty when it is fine.

    Args:
        scale: None when it is not stored.
        signed: Whether it may be negative, as where batch-norm's sign went into it.

    >>> scale_problem(np.float32([[0.5], [0.25]])), scale_problem(np.float32([0.5, 0]))
    ('', 'a scale of 0.0; allowed: positive and finite')
    """
    if scale is None:
        return "a scale that is not stored; allowed: a constant"
    if sum(size > 1 for size in scale.shape) > 1:
        return f"a scale of shape {scale.shape}; allowed: one per channel of one axis"
    bad = scale[~(np.isfinite(scale) & ((scale != 0) if signed else (scale > 0)))]
    allowed = "finite and not zero" if signed else "positive and finite"
    return f"a scale of {bad.flat[0]}; allowed: {allowed}" if bad.size else ""


def inspect_weights(model: OnnxFile) -> LatentReport:
    """Look at every weight and list what stays in float.

    Args:
        model: A file from `read`, QCDQ or QONNX.

    Returns:
        The report; it says whether the file may leave.

    Raises:
        ExportError: The metadata property is malformed, or a stored value does not fit its type.
    """
    names = names_of(model.graph)
    declared = _declared(model)
    weights = [
        _inspect(name, node, names, declared)
        for graph in model.graph.walk()
        for node in graph.nodes
        if node.op_type in WEIGHTED
        for place, name in enumerate(node.inputs[:2])
        # MatMul may multiply two activations; the others have their weight in second place
        if name not in names.dynamic or (place == 1 and node.op_type != "MatMul")
    ]
    strangers = sorted({*declared.bits, *declared.floats} - {*names.tensors})
    problems = [f"{w.layer}: tensor {w.name!r}: {w.problem}" for w in weights if w.problem]
    problems += [f"metadata names {name!r}, which the file does not hold" for name in strangers]
    if not weights:
        problems.append("no weight found: nothing could be checked")
    on_grid = {weight.name for weight in weights if weight.form == "grid"}
    return LatentReport(
        weights=tuple(weights),
        float_residue=tuple(
            Residue(name, tensor.elements, tensor.element.bits)
            for name, tensor in names.tensors.items()
            if tensor.element.is_float and name not in on_grid
        ),
        other_bytes=len(model.data) - sum(len(tensor.payload) for tensor in model.tensors()),
        problems=tuple(problems),
    )


def latent_weight_gate(model: OnnxFile) -> LatentReport:
    """Run the gate and refuse a file that does not pass.

    Args:
        model: A file from `read`.

    Returns:
        The report of a file that passed.

    Raises:
        ExportError: It did not pass; the message names the first tensor, the number of distinct
            values found and allowed, and the file.
    """
    report = inspect_weights(model)
    if report.problems:
        more = len(report.problems) - 1
        rest = f" (and {more} more)" if more else ""
        raise ExportError(f"{model.path}: latent-weight gate: {report.problems[0]}{rest}")
    return report


def _inspect(name: str, node: Node, names: Names, declared: _Declared) -> WeightFinding:
    found = names.trace(name)
    if found.root is None:
        return WeightFinding(name, node.label, "unknown", problem=found.stopped)
    element = found.root.element
    bits = declared.bits.get(found.name, 8 if element.is_float else element.bits)
    check = WeightFinding(
        name=found.name,
        layer=node.label,
        form="codes",
        elements=found.root.elements,
        bits=bits,
        declared=found.name in declared.bits,
        allowed=1 << bits,
    )
    values = found.root.array()
    if not element.is_float:
        return _inspect_codes(check, values, found.steps, names, element.is_signed)
    # The quantizer must be the first to touch the floats: then the file holds what it puts out.
    quants = [step for step in found.steps if step.op_type != "Identity"]
    if quants and is_quant(quants[-1]):
        if element.name != "FLOAT":
            return replace(check, form="grid", problem=f"stored as {element.name}; allowed FLOAT")
        return _inspect_grid(check, values, quants[-1], names)
    check = replace(check, bits=0, distinct=most_distinct(values, None), allowed=0)
    seen = f"{check.distinct} distinct float values, allowed 0"
    if any(step.op_type == "QuantizeLinear" for step in found.steps):
        return replace(check, form="latent", problem=f"float weights before QuantizeLinear: {seen}")
    if found.name in declared.floats:
        return replace(check, form="float")
    return replace(check, form="float", problem=f"float weights without quantizer: {seen}")


def _inspect_codes(
    check: WeightFinding, codes: NDArray[Any], steps: tuple[Node, ...], names: Names, signed: bool
) -> WeightFinding:
    """Integers: they must fit the declared width, and no scale may hold what they lack."""
    scaling = [step for step in steps if step.op_type in ("Mul", "DequantizeLinear", "Quant")]
    scales = [names.scale(step) for step in scaling]
    moved = any(step.op_type in ("Transpose", "Reshape") for step in steps)
    axis = None if moved or not scaling else _group_axis(codes.ndim, scaling[-1], scales[-1])
    check = replace(check, distinct=most_distinct(codes, axis))
    if not 2 <= check.bits <= 8:
        return replace(check, problem=f"codes of {check.bits} bits; allowed 2 to 8")
    low, high = code_range(check.bits, signed=signed)
    problem = next(filter(None, (scale_problem(s, signed=True) for s in scales)), "")
    if codes.size and not low <= codes.min() <= codes.max() <= high:
        problem = (
            f"codes from {codes.min()} to {codes.max()}, {check.distinct} distinct values; "
            f"allowed {low} to {high}, {check.allowed} distinct values"
        )
    return replace(check, problem=problem)


def _inspect_grid(check: WeightFinding, x: NDArray[np.float32], quant: Node, names: Names) -> WeightFinding:
    """Floats before Quant: they must be code times scale already, so that Quant changes nothing."""
    check = replace(check, form="grid")
    if len(quant.inputs) != 4:
        return replace(check, problem=f"a quantizer of {len(quant.inputs)} inputs; allowed 4")
    scale, zero, width = (names.constant(name) for name in quant.inputs[1:4])
    rounding = quant.attributes.get("rounding_mode")
    problem = scale_problem(scale)
    if width is None or width.size != 1 or not 2 <= (bits := float(width.flat[0])) <= 8:
        problem = problem or "a bit width that is not stored, or not from 2 to 8"
    elif bits != int(bits) or (check.declared and bits != check.bits):
        problem = problem or f"a bit width of {bits:g}; declared {check.bits}"
    if zero is None or zero.size != 1 or not float(zero.flat[0]).is_integer():
        problem = problem or "a zero point that is not one stored integer"
    if rounding and rounding.strings[:1] not in ((b"ROUND",), (b"HALF_EVEN",)):
        problem = problem or f"rounding mode {rounding.strings[:1]}; allowed ROUND"
    if problem or scale is None or zero is None or width is None:
        return replace(check, problem=problem)
    check = replace(check, bits=int(bits), allowed=1 << int(bits))
    try:
        scale = np.broadcast_to(scale, (1,) * (x.ndim - scale.ndim) + scale.shape)
        np.broadcast_to(scale, x.shape)
    except ValueError:
        return replace(check, problem=f"scale {scale.shape} does not fit weights {x.shape}")
    return _on_grid(check, x, scale.astype(np.float32), float(zero.flat[0]), quant)


def _on_grid(
    check: WeightFinding, x: NDArray[np.float32], scale: NDArray[np.float32], zero: float, quant: Node
) -> WeightFinding:
    with np.errstate(all="ignore"):  # NaN and infinity fail the comparisons below
        codes = x / scale + np.float32(zero)
        off = float(np.abs(codes - np.round(codes)).max(initial=0.0))
    limits = code_range(
        check.bits, signed=quant.integer("signed", 1) != 0, narrow=quant.integer("narrow", 0) != 0
    )
    distinct = most_distinct(x, _group_axis(x.ndim, quant, scale))
    check = replace(check, distinct=distinct)
    seen = f"{distinct} distinct values, allowed {check.allowed}"
    if not off < GRID_TOLERANCE or distinct > check.allowed:
        return replace(check, form="latent", problem=f"float weights before Quant, off grid: {seen}")
    low, high = (float(np.round(codes).min(initial=0)), float(np.round(codes).max(initial=0)))
    if low < limits[0] or high > limits[1]:
        return replace(check, problem=f"codes {low:g} to {high:g}, allowed {limits}; {seen}")
    again = quantize(x, scale, np.full(1, zero, np.float32), limits)
    if not np.array_equal(again, x):
        return replace(check, problem=f"quantizing again changes the weights; {seen}")
    if np.signbit(x[x == 0]).any():
        return replace(check, problem="negative zeros, the signs of latent weights; allowed +0")
    return check


def _group_axis(rank: int, node: Node, scale: NDArray[Any] | None) -> int | None:
    """Find the axis along which each channel has its own scale; None when all share one."""
    if scale is None or scale.size <= 1 or rank == 0:
        return None
    if node.op_type == "DequantizeLinear":
        axis = node.integer("axis", 1)
    else:
        axis = rank - scale.ndim + int(np.argmax(scale.shape))
    return axis if -rank <= axis < rank else None


def _declared(model: OnnxFile) -> _Declared:
    document = model.about()
    try:
        bits = dict(document.get("weight_bits", {}))
        floats = frozenset(document.get("float_weights", []))
    except (ValueError, TypeError) as error:
        raise ExportError(f"{model.path}: metadata {METADATA_KEY!r} is malformed: {error}") from error
    if not all(type(b) is int and 2 <= b <= 8 for b in bits.values()):
        raise ExportError(f"{model.path}: metadata weight_bits {bits}; allowed 2 to 8")
    if not all(isinstance(name, str) for name in floats):
        raise ExportError(f"{model.path}: metadata float_weights must be names")
    return _Declared(bits, floats)
