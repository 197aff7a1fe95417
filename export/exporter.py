"""Device-ready files from one network: deploy form, one trace, one graph for each format, the gates.

trace.py     the deploy form as one QONNX graph
graph.py     small edits of graphs
qonnx.py     that graph as FINN and hls4ml want it
qcdq.py      standard ONNX as literally as it goes: runs anywhere, fast nowhere
integer.py   standard ONNX that runtimes turn into integer kernels
packed.py    the integer file with 4-bit and 2-bit weights on disk
input.py     what the input looks like
targets.py   what each consumer takes
gates.py     what a file must pass before it exists
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx
import torch
from jaxtyping import Float, UInt8

from qmu_edge import __version__
from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.formats.packed import pack
from qmu_edge.export.formats.qcdq import to_qcdq
from qmu_edge.export.formats.qonnx import clean, quantizers
from qmu_edge.export.gates import (
    MAIN_LEVEL,
    Arbitration,
    Levels,
    arbitrate,
    parity_by_level,
    require_valid,
    run_file,
    runnable,
)
from qmu_edge.export.graph import initializers
from qmu_edge.export.input import InputSpec, apply_input, fix_batch
from qmu_edge.export.targets import TARGETS, Target, target_named
from qmu_edge.export.trace import trace
from qmu_edge.io.json import compact
from qmu_edge.models.calibration import require_calibrated, weight_layers
from qmu_edge.models.deploy import deploy, require_equivalent
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import on_device
from qmu_edge.train.fit import predict
from qmu_edge.verify.parity import Parity, compare, require_parity

__all__ = ["FILES", "FORMATS", "TARGETS", "ExportPlan", "Exported", "InputSpec", "export"]

FILES: Final[Mapping[str, str]] = {
    "integer": "model.onnx",
    "packed": "model.packed.onnx",
    "qcdq": "model.qcdq.onnx",
    "qonnx": "model.qonnx.onnx",
}
FORMATS: Final = tuple(FILES)
EQUIVALENCE_IMAGES: Final = 2
EXACT_IMAGES: Final = 32
ROUNDING: Final = 1e-4  # of the largest logit, where activations are float
BATCH: Final = 64  # larger ones leave the processor's caches and take twice the time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What to export, for whom.

    Attributes:
        formats: Among `FORMATS`.
        target: Among `TARGETS`.
        input: What the file takes.
        batch: Fixed batch size; None for any.
        class_names: Written into the file.
        recipe: Digest of the recipe, written into the file.
    """

    formats: tuple[str, ...] = ("integer", "packed", "qonnx")
    target: str = "onnxruntime"
    input: InputSpec = field(default_factory=InputSpec)
    batch: int | None = None
    class_names: tuple[str, ...]
    recipe: str = ""

    def digest(self) -> str:
        """SHA-256 (hex) under which projects find what they exported before; so the text must stay."""
        given = f"dtype={self.input.dtype!r}, layout={self.input.layout!r}"
        text = (
            f"ExportPlan(formats={self.formats!r}, target={self.target!r}, camera=Camera({given}), "
            f"batch={self.batch!r}, class_names={self.class_names!r}, recipe={self.recipe!r})"
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported file and what its gates found.

    Attributes:
        format: Among `FORMATS`.
        data: The file.
        parity: Agreement with the deploy form in torch.
        levels: The same on fewer images, for each optimization level and thread count.
        arbitration: What the integer reference says where they disagree.
        gate: The latent-weight gate's report, as plain values.
    """

    format: str
    data: bytes
    parity: Parity
    levels: Levels
    arbitration: Arbitration
    gate: dict[str, Any]


def export(
    model: Classifier,
    plan: ExportPlan,
    *,
    images: UInt8[np.ndarray, "n c h w"],
    min_agreement: float,
    min_inputs: int,
) -> list[Exported]:
    """Export a network and pass every file through its gates.

    Args:
        model: Calibrated and re-quantized, on the CPU.
        plan: What to export.
        images: Inputs of the parity gate; square.
        min_agreement: Share of inputs on which file and network must name the same class, where the
            file is not exact.
        min_inputs: Fewest of `images` that the parity gate accepts.

    Raises:
        ConfigError: The target does not take a format.
        ExportError: The target does not take a bit width, or a gate does not pass; nothing is returned.
    """
    if unknown := [f for f in plan.formats if f not in FORMATS]:
        raise ConfigError(f"format {unknown[0]!r} is not one of {', '.join(FORMATS)}")
    target = target_named(plan.target, plan.formats)
    require_calibrated(model)
    if len(images) < min_inputs:
        raise ExportError(f"parity: {len(images)} inputs, allowed at least {min_inputs}")
    deployed = deploy(model, images.shape[-1])
    require_equivalent(model, deployed, torch.from_numpy(images[:EQUIVALENCE_IMAGES]) / 255.0)
    reference = _Reference(deployed, images)
    qonnx = trace(deployed, images.shape[-1])
    _describe(qonnx, deployed, plan)
    files = {
        name: _graph(name, qonnx, target, plan).SerializeToString(deterministic=True) for name in plan.formats
    }
    _ = reference.logits_of_few  # once, before two files ask for it
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda f: _gated(f[0], f[1], reference, min_agreement), files.items()))


class _Reference:
    """What the deploy form answers: on a few images, and on all where a file is not exact on the few."""

    def __init__(self, deployed: Classifier, images: UInt8[np.ndarray, "n c h w"]) -> None:
        self._deployed = deployed
        self.tolerance = ROUNDING if deployed.recipe.activation_bits == "float" else 0.0
        noise = np.random.default_rng(0).integers(0, 256, images[:1].shape, np.uint8)
        extremes = [np.zeros_like(noise), np.full_like(noise, 255), noise]  # black, white: every clip is met
        self.few = np.concatenate([*extremes, images[: EXACT_IMAGES - len(extremes)]])
        self.all = images

    @cached_property
    def logits_of_few(self) -> Float[np.ndarray, "n k"]:
        """Logits of `few`."""
        return self._logits(self.few)

    @cached_property
    def logits_of_all(self) -> Float[np.ndarray, "n k"]:
        """Logits of `all`."""
        return self._logits(self.all)

    def _logits(self, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n k"]:
        unlabelled = np.zeros(len(images), np.int64)
        samples = on_device(images, unlabelled, torch.device("cpu"), limit_bytes=0)
        return predict(self._deployed, samples, BATCH).numpy()


def _gated(name: str, data: bytes, reference: _Reference, min_agreement: float) -> Exported:
    """The file through its gates.

    A file that gives every logit of these few images to the bit computes the same function; more images
    would tell nothing more. One that does not must name the same class on all of them.
    """
    gate = require_valid(data)
    run = runnable(data)
    images, expected = reference.few, reference.logits_of_few
    logits = run_file(run, images)
    every = {**parity_by_level(run, images, expected), MAIN_LEVEL: compare(expected, logits)}
    allowed = reference.tolerance * np.abs(expected).max()
    if np.abs(logits - expected).max() > allowed:
        images, expected = reference.all, reference.logits_of_all
        logits = run_file(run, images)
    parity = compare(expected, logits)
    why = arbitrate(data, images, expected, logits)
    try:
        require_parity(parity, min_agreement=min_agreement, min_inputs=len(images))
    except ExportError as error:
        raise ExportError(f"{name}: {error}{why}") from None
    return Exported(name, data, parity, every, why, gate)


def _graph(name: str, qonnx: onnx.ModelProto, target: Target, plan: ExportPlan) -> onnx.ModelProto:
    """The graph of one format, as the target wants it, with the input that was asked for."""
    if name == "qonnx":
        graph = clean(qonnx, batch=plan.batch or target.batch, matmul=plan.target == "hls4ml")
        apply_input(graph, plan.input)
        return graph
    if name == "qcdq":
        graph = to_qcdq(qonnx)
    else:
        graph = to_integer(qonnx, zero_points=target.zero_points, clip_values=target.clip_values)
    if name != "qcdq":  # which keeps the older opset of the trace, so that it runs anywhere
        graph.ir_version = target.ir_version
        for entry in graph.opset_import:
            entry.version = target.opset
    if name == "packed":
        bits = {q.weight: q.bits for q in quantizers(qonnx) if q.weight}
        if not target.int2 and 2 in bits.values():
            raise ExportError(f"target {plan.target} has no 2-bit tensors; export --format integer for it")
        graph = pack(graph, bits, _float_weights(qonnx))
    if plan.batch or target.batch:
        fix_batch(graph, plan.batch or target.batch or 1)
    apply_input(graph, plan.input)
    return graph


def _describe(graph: onnx.ModelProto, model: Classifier, plan: ExportPlan) -> None:
    """Say in the file what a device or an auditor needs; no paths, nothing of the training."""
    bits = {q.weight: q.bits for q in quantizers(graph) if q.weight}
    float_weights = _float_weights(graph)
    allowed = sum(not layer.weight_quant.is_quant_enabled for _, layer in weight_layers(model))
    if len(float_weights) > allowed:
        raise ExportError(
            f"float weights in the graph: {', '.join(float_weights)}; the recipe allows {allowed}"
        )
    about = {
        "tool": f"qmu-edge {__version__}",
        "architecture": model.recipe.architecture,
        "recipe": plan.recipe,
        "weight_bits": bits,
        "float_weights": float_weights,
        "activation_bits": model.recipe.activation_bits,
        "input": {
            "layout": plan.input.layout,
            "dtype": plan.input.dtype,
            "range": [0, 255] if plan.input.dtype == "uint8" else [0.0, 1.0],
            "channels": model.shape.channels,
        },
        "classes": list(plan.class_names),
    }
    entry = graph.metadata_props.add()
    entry.key = "qmu_edge"
    entry.value = compact(about).decode()


def _float_weights(graph: onnx.ModelProto) -> list[str]:
    """Weights that no quantizer stands before; the tracer folds batch-norm into these."""
    stored = initializers(graph)
    layers = [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return [node.input[1] for node in layers if node.input[1] in stored]
