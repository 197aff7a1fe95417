"""The latent-weight gate: a file may hold integer codes, or code times scale, and no other weights.

Quantization-aware training keeps a float weight behind every code. Exporters can write those into the file
(`slice_1 -> QuantizeLinear -> ...`), and with them a residue of the data that was to be forgotten. For every
weight, that is every constant that reaches the first two inputs of Conv, ConvTranspose, Gemm or MatMul, the
gate walks back to the stored tensor and inspects its values:

    integer tensor                        the codes fit the declared bits              form "codes"
    float tensor directly before Quant    on the grid, and quantizing changes nothing  form "grid"
    float tensor before QuantizeLinear    refused: these are the latent weights        form "latent"
    float tensor without quantizer        refused, unless the metadata lists it        form "float"

The metadata (see `qmu_edge.verify.metadata`) declares the width of each weight's codes; without an entry the
width of the storage type counts. A scale must be finite, not zero (positive before Quant) and shared along
all axes but one: a scale for each weight could hold the weights.

Source: QONNX IntQuant (github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops/intquant_v1.md).
Differs: only the rounding mode ROUND; one zero point; 2 to 8 bits; a zero code is written +0.0,
    because -0.0 would tell the sign of the latent weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.codes import code_range, most_distinct, quantize, scale_problem
from qmu_edge.verify.metadata import DeclaredWeights, declared_weights
from qmu_edge.verify.onnx.graph import Node, OnnxFile
from qmu_edge.verify.onnx.weight_source import Names, Trace, is_quant, names_of

GRID_TOLERANCE: Final = 1e-3  # in codes: a float32 quotient of code x scale and scale is off by far less
WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Form(StrEnum):
    """How a weight is stored; see the table above. UNKNOWN where it cannot be traced to stored values."""

    CODES = "codes"
    GRID = "grid"
    LATENT = "latent"
    FLOAT = "float"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class WeightFinding:
    """One weight tensor of one layer.

    Attributes:
        name: The stored tensor.
        layer: The operator that reads it.
        form: How it is stored.
        elements: How many weights it holds.
        bits: Width of a code; 0 where there are no codes.
        declared: Whether the file's metadata says `bits`; else it is the width of the storage type.
        distinct: Distinct values in the scale group that has most of them.
        allowed: Most distinct values that a scale group may have, 2**bits.
        problem: Why the weight does not pass; empty when it does.
    """

    name: str
    layer: str
    form: Form
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
    """What the gate has found.

    Attributes:
        weights: One entry for each weight of each layer.
        float_residue: Every stored float tensor but the weights that lie on their grid.
        other_bytes: Bytes of the file that are no tensor values: structure, names, metadata.
        problems: Empty when the file passes.
    """

    weights: tuple[WeightFinding, ...]
    float_residue: tuple[Residue, ...]
    other_bytes: int
    problems: tuple[str, ...]


def inspect_weights(model: OnnxFile) -> LatentReport:
    """Inspect every weight, and list what stays in float.

    Args:
        model: A file from `read`, in any format.

    Returns:
        The report, also of a file that does not pass.

    Raises:
        ExportError: The metadata are malformed, or a stored value does not fit its type.
    """
    names = names_of(model.graph)
    declared = declared_weights(model)
    weights = tuple(_inspect(name, node, names, declared) for node, name in _weight_inputs(model, names))
    strangers = sorted({*declared.weight_bits, *declared.float_weights} - {*names.tensors})
    problems = [f"{w.layer}: tensor {w.name!r}: {w.problem}" for w in weights if w.problem]
    problems += [f"metadata names {name!r}, which the file does not hold" for name in strangers]
    if not weights:
        problems.append("no weight found: nothing could be checked")
    on_grid = {weight.name for weight in weights if weight.form is Form.GRID}
    return LatentReport(
        weights=weights,
        float_residue=tuple(
            Residue(name, tensor.elements, tensor.element.bits)
            for name, tensor in names.tensors.items()
            if tensor.element.is_float and name not in on_grid
        ),
        other_bytes=len(model.data) - sum(len(tensor.payload) for tensor in model.tensors()),
        problems=tuple(problems),
    )


def _weight_inputs(model: OnnxFile, names: Names) -> Iterator[tuple[Node, str]]:
    """Each layer with the name of an input that is its weight."""
    for graph in model.graph.walk():
        for node in graph.nodes:
            if node.op_type in WEIGHTED:
                for place, name in enumerate(node.inputs[:2]):
                    # MatMul may multiply two activations; the others have their weight in second place
                    if name not in names.dynamic or (place == 1 and node.op_type != "MatMul"):
                        yield node, name


def latent_weight_gate(model: OnnxFile) -> LatentReport:
    """Inspect every weight, and refuse a file that does not pass.

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


def _inspect(name: str, node: Node, names: Names, declared: DeclaredWeights) -> WeightFinding:
    traced = names.trace(name)
    if traced.root is None:
        return WeightFinding(name, node.label, Form.UNKNOWN, problem=traced.stopped)
    element = traced.root.element
    bits = declared.weight_bits.get(traced.name, 8 if element.is_float else element.bits)
    finding = WeightFinding(
        name=traced.name,
        layer=node.label,
        form=Form.CODES,
        elements=traced.root.elements,
        bits=bits,
        declared=traced.name in declared.weight_bits,
        allowed=1 << bits,
    )
    values = traced.root.array()
    if not element.is_float:
        return _inspect_codes(finding, values, traced.steps, names, element.is_signed)
    # The quantizer must be the first to read the floats: then its output equals what the file stores.
    quants = [step for step in traced.steps if step.op_type != "Identity"]
    if not quants or not is_quant(quants[-1]):
        return _inspect_floats(finding, values, traced, declared)
    if element.name != "FLOAT":
        return replace(finding, form=Form.GRID, problem=f"stored as {element.name}; allowed FLOAT")
    return _inspect_grid(finding, values, quants[-1], names)


def _inspect_floats(
    finding: WeightFinding, values: NDArray[Any], traced: Trace, declared: DeclaredWeights
) -> WeightFinding:
    """Floats that no Quant node reads first: refused, unless the metadata lists them."""
    finding = replace(finding, form=Form.FLOAT, bits=0, distinct=most_distinct(values, None), allowed=0)
    seen = f"{finding.distinct} distinct float values, allowed 0"
    if any(step.op_type == "QuantizeLinear" for step in traced.steps):
        return replace(finding, form=Form.LATENT, problem=f"float weights before QuantizeLinear: {seen}")
    if traced.name in declared.float_weights:
        return finding
    return replace(finding, problem=f"float weights without quantizer: {seen}")


def _inspect_codes(
    finding: WeightFinding, codes: NDArray[Any], steps: tuple[Node, ...], names: Names, signed: bool
) -> WeightFinding:
    """Integers: they must fit the declared width, and no scale may hold what they lack."""
    scaling = [step for step in steps if step.op_type in ("Mul", "DequantizeLinear", "Quant")]
    scales = [names.scale(step) for step in scaling]
    moved = any(step.op_type in ("Transpose", "Reshape") for step in steps)
    axis = None if moved or not scaling else _group_axis(codes.ndim, scaling[-1], scales[-1])
    finding = replace(finding, distinct=most_distinct(codes, axis))
    if not 2 <= finding.bits <= 8:
        return replace(finding, problem=f"codes of {finding.bits} bits; allowed 2 to 8")
    low, high = code_range(finding.bits, signed=signed)
    problem = next(filter(None, (scale_problem(s, signed=True) for s in scales)), "")
    if codes.size and not low <= codes.min() <= codes.max() <= high:
        problem = (
            f"codes from {codes.min()} to {codes.max()}, {finding.distinct} distinct values; "
            f"allowed {low} to {high}, {finding.allowed} distinct values"
        )
    return replace(finding, problem=problem)


def _inspect_grid(finding: WeightFinding, x: NDArray[np.float32], quant: Node, names: Names) -> WeightFinding:
    """Floats before Quant: they must be code times scale already, so that Quant changes nothing."""
    finding = replace(finding, form=Form.GRID)
    if len(quant.inputs) != 4:
        return replace(finding, problem=f"a quantizer of {len(quant.inputs)} inputs; allowed 4")
    scale, zero, width = (names.constant(name) for name in quant.inputs[1:4])
    problem = scale_problem(scale) or _quant_problem(quant, zero, width, finding)
    if problem or scale is None or zero is None or width is None:
        return replace(finding, problem=problem)
    bits = int(width.flat[0])
    finding = replace(finding, bits=bits, allowed=1 << bits)
    try:
        scale = np.broadcast_to(scale, (1,) * (x.ndim - scale.ndim) + scale.shape)
        np.broadcast_to(scale, x.shape)
    except ValueError:
        return replace(finding, problem=f"scale {scale.shape} does not fit weights {x.shape}")
    return _compare_with_grid(finding, x, scale.astype(np.float32), float(zero.flat[0]), quant)


def _quant_problem(
    quant: Node, zero: NDArray[Any] | None, width: NDArray[Any] | None, finding: WeightFinding
) -> str:
    """What is wrong with the width, the zero point or the rounding of a Quant node; empty when nothing is."""
    if width is None or width.size != 1 or not 2 <= (bits := float(width.flat[0])) <= 8:
        return "a bit width that is not stored, or not from 2 to 8"
    if bits != int(bits) or (finding.declared and bits != finding.bits):
        return f"a bit width of {bits:g}; declared {finding.bits}"
    if zero is None or zero.size != 1 or not float(zero.flat[0]).is_integer():
        return "a zero point that is not one stored integer"
    rounding = quant.attributes.get("rounding_mode")
    if rounding and rounding.strings[:1] not in ((b"ROUND",), (b"HALF_EVEN",)):
        return f"rounding mode {rounding.strings[:1]}; allowed ROUND"
    return ""


def _compare_with_grid(
    finding: WeightFinding, x: NDArray[np.float32], scale: NDArray[np.float32], zero: float, quant: Node
) -> WeightFinding:
    """Compare weights x with the codes on their grid; `scale` broadcasts to x, `zero` is the zero point."""
    with np.errstate(all="ignore"):  # NaN and infinity fail the comparisons below
        codes = x / scale + np.float32(zero)
        off = float(np.abs(codes - np.round(codes)).max(initial=0.0))
    limits = code_range(
        finding.bits, signed=quant.integer("signed", 1) != 0, narrow=quant.integer("narrow", 0) != 0
    )
    distinct = most_distinct(x, _group_axis(x.ndim, quant, scale))
    finding = replace(finding, distinct=distinct)
    seen = f"{distinct} distinct values, allowed {finding.allowed}"
    if not off < GRID_TOLERANCE or distinct > finding.allowed:
        return replace(finding, form=Form.LATENT, problem=f"float weights before Quant, off grid: {seen}")
    low, high = (float(np.round(codes).min(initial=0)), float(np.round(codes).max(initial=0)))
    if low < limits[0] or high > limits[1]:
        return replace(finding, problem=f"codes {low:g} to {high:g}, allowed {limits}; {seen}")
    again = quantize(x, scale, np.full(1, zero, np.float32), limits)
    if not np.array_equal(again, x):
        return replace(finding, problem=f"quantizing again changes the weights; {seen}")
    if np.signbit(x[x == 0]).any():
        return replace(finding, problem="negative zeros, the signs of latent weights; allowed +0")
    return finding


def _group_axis(rank: int, node: Node, scale: NDArray[Any] | None) -> int | None:
    """Find the axis along which each channel has its own scale; None when all share one."""
    if scale is None or scale.size <= 1 or rank == 0:
        return None
    if node.op_type == "DequantizeLinear":
        axis = node.integer("axis", 1)
    else:
        axis = rank - scale.ndim + int(np.argmax(scale.shape))
    return axis if -rank <= axis < rank else None
