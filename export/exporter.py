"""Export of a network: deploy form, trace to a QONNX graph, conversion to each format, validation.

trace.py     the deploy form as a QONNX graph
graph.py     edits of ONNX graphs
formats/     conversion of that graph to each format
input.py     type and layout of a file's input
targets.py   formats, and the consumers' restrictions
outputs.py   outputs that a file is to be without
gates.py     validation of a file before it is written
bundle.py    the bundle for a device
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import onnx
import torch
from jaxtyping import Float, UInt8

from qmu_edge import __version__
from qmu_edge.errors import ExportError
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.formats.packed import pack
from qmu_edge.export.formats.qcdq import to_qcdq
from qmu_edge.export.formats.qonnx import clean, quantizers
from qmu_edge.export.gates import (
    MAIN_LEVEL,
    Arbitration,
    arbitrate,
    parity_by_level,
    require_valid,
    run_file,
    runnable,
    unproven,
)
from qmu_edge.export.graph import initializers
from qmu_edge.export.input import InputSpec, apply_input, fix_batch
from qmu_edge.export.outputs import keep_outputs
from qmu_edge.export.targets import ONNXRUNTIME, Format, Target
from qmu_edge.export.trace import trace
from qmu_edge.io.digest import sha256_of
from qmu_edge.models.calibration import require_calibrated, weight_layers
from qmu_edge.models.deploy import deploy, require_equivalent
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import on_device
from qmu_edge.train.fit import predict
from qmu_edge.verify.latent_weights import WEIGHTED, LatentReport
from qmu_edge.verify.metadata import METADATA_KEY, PROCESSORS_KEY, Metadata
from qmu_edge.verify.parity import ROUNDING, Parity, compare, require_parity
from qmu_edge.verify.rounding import Obstacle, processors_of

EQUIVALENCE_IMAGES: Final = 2
EXACT_IMAGES: Final = 32
BATCH: Final = 64  # larger ones leave the processor's caches and take twice the time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """Options of an export.

    Attributes:
        formats: Formats, one file for each.
        target: Consumer of the files.
        input: Type and layout of the input.
        batch: Fixed batch size; None for any.
        class_names: Of the outputs; written into the files.
        recipe: Digest of the recipe, written into the files.
        outputs: Labels of the outputs that the files have; None for all.
    """

    formats: tuple[Format, ...] = (Format.INTEGER, Format.PACKED, Format.QONNX)
    target: Target = ONNXRUNTIME
    input: InputSpec = field(default_factory=InputSpec)
    batch: int | None = None
    class_names: tuple[str, ...]
    recipe: str = ""
    outputs: tuple[int, ...] | None = None

    def digest(self) -> str:
        """Digest of the plan; a project's ledger records under it what was exported.

        Existing ledgers hold it, so the text that is hashed keeps the names of version 0.1.0.
        """
        given = f"dtype={self.input.dtype.value!r}, layout={self.input.layout.value!r}"
        text = (
            f"ExportPlan(formats={tuple(f.value for f in self.formats)!r}, target={self.target.name!r}, "
            f"camera=Camera({given}), batch={self.batch!r}, class_names={self.class_names!r}, "
            f"recipe={self.recipe!r}{'' if self.outputs is None else f', outputs={self.outputs!r}'})"
        )
        return sha256_of(text.encode())


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported file and the results of its gates.

    Attributes:
        format: Format of the file.
        data: Bytes of the file.
        parity: Agreement with the deploy form in torch.
        levels: The same on fewer images, for each optimization level and thread count of onnxruntime.
        arbitration: Result of the integer reference where file and network disagree.
        latent_weights: Report of the latent-weight gate.
        obstacles: What keeps the file from being proven to compute the same bits on every processor.
    """

    format: Format
    data: bytes
    parity: Parity
    levels: Mapping[str, Parity]
    arbitration: Arbitration
    latent_weights: LatentReport
    obstacles: tuple[Obstacle, ...]


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
        plan: Options of the export.
        images: Inputs of the parity gate; square.
        min_agreement: Share of inputs on which file and network must name the same class, where the
            file is not exact.
        min_inputs: Fewest of `images` that the parity gate accepts.

    Raises:
        ConfigError: The target does not take a format.
        ExportError: The target does not take a bit width, or a gate does not pass; nothing is returned.
    """
    plan.target.require(plan.formats)
    require_calibrated(model)
    if len(images) < min_inputs:
        raise ExportError(f"parity: {len(images)} inputs, allowed at least {min_inputs}")
    deployed = deploy(model, images.shape[-1])
    require_equivalent(model, deployed, torch.from_numpy(images[:EQUIVALENCE_IMAGES]) / 255.0)
    reference = _Reference(deployed, images, plan.outputs)
    traced = _traced(deployed, images.shape[-1], plan)
    plan.target.require_known({node.op_type for node in traced.graph.graph.node})
    files = {form: _bytes(_graph(form, traced, plan)) for form in plan.formats}
    _ = reference.logits_of_few  # computed once, before two threads use it
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda form: _gated(form, *files[form], reference, min_agreement), files))


def _bytes(graph: onnx.ModelProto) -> tuple[bytes, tuple[Obstacle, ...]]:
    """The file, which says on which processors it computes the same, and what is in the way of all."""
    found = unproven(graph.SerializeToString())
    graph.metadata_props.add(key=PROCESSORS_KEY, value=processors_of(found))
    return graph.SerializeToString(deterministic=True), found


class _Reference:
    """Logits of the deploy form, computed at their first use.

    Attributes:
        few: Black, white, noise and some of the images, which reach the clipping of activations.
        all: All images of the parity gate, for files that are not exact on the few.
        tolerance: Largest difference of an exact file, as a share of the largest logit.
    """

    def __init__(
        self, deployed: Classifier, images: UInt8[np.ndarray, "n c h w"], outputs: Sequence[int] | None
    ) -> None:
        self._deployed, self._outputs = deployed, outputs
        self.tolerance = ROUNDING if deployed.recipe.activation_bits == "float" else 0.0
        noise = np.random.default_rng(0).integers(0, 256, images[:1].shape, np.uint8)
        extremes = [np.zeros_like(noise), np.full_like(noise, 255), noise]
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
        logits = predict(self._deployed, samples, BATCH).numpy()
        return logits if self._outputs is None else logits[:, list(self._outputs)]


def _gated(
    form: Format, data: bytes, found: tuple[Obstacle, ...], reference: _Reference, min_agreement: float
) -> Exported:
    """Pass a file through its gates.

    A file whose logits on `reference.few` are exact computes the same function, so that more images would add
    no information. Any other file must name the same class on enough of all images.
    """
    latent_weights = require_valid(data)
    standard = runnable(data)
    images, expected = reference.few, reference.logits_of_few
    logits = run_file(standard, images)
    levels = {**parity_by_level(standard, images, expected), MAIN_LEVEL: compare(expected, logits)}
    allowed = reference.tolerance * np.abs(expected).max()
    if np.abs(logits - expected).max() > allowed:
        images, expected = reference.all, reference.logits_of_all
        logits = run_file(standard, images)
    parity = compare(expected, logits)
    arbitration = arbitrate(data, images, expected, logits)
    try:
        require_parity(parity, min_agreement=min_agreement, min_inputs=len(images))
    except ExportError as error:
        clipped = next((f"; {obstacle}" for obstacle in found if obstacle.clips), "")
        raise ExportError(f"{form}: {error}{arbitration}{clipped}") from None
    return Exported(form, data, parity, levels, arbitration, latent_weights, found)


@dataclass(frozen=True, slots=True)
class _Traced:
    """The QONNX graph of a network, with metadata, and its weights by name.

    Attributes:
        graph: From `trace`; every format is made from a copy.
        bits: Width of each quantized weight.
        floats: Weights without a quantizer; `deploy` folds batch-norm into these.
    """

    graph: onnx.ModelProto
    bits: Mapping[str, int]
    floats: tuple[str, ...]


def _traced(deployed: Classifier, size: int, plan: ExportPlan) -> _Traced:
    """Trace the deploy form for square images of `size` pixels."""
    graph = trace(deployed, size)
    if plan.outputs is not None:
        keep_outputs(graph, plan.outputs)
    stored = initializers(graph)
    layers = [node for node in graph.graph.node if node.op_type in WEIGHTED]
    floats = tuple(node.input[1] for node in layers if node.input[1] in stored)
    allowed = sum(not layer.weight_quant.is_quant_enabled for _, layer in weight_layers(deployed))
    if len(floats) > allowed:
        raise ExportError(f"float weights in the graph: {', '.join(floats)}; the recipe allows {allowed}")
    bits = {q.weight: q.bits for q in quantizers(graph) if q.weight}
    metadata = Metadata(
        tool=f"qmu-edge {__version__}",
        architecture=deployed.recipe.architecture,
        recipe=plan.recipe,
        weight_bits=bits,
        float_weights=floats,
        activation_bits=deployed.recipe.activation_bits,
        input=plan.input.metadata(deployed.shape.channels),
        classes=plan.class_names,
    )
    graph.metadata_props.add(key=METADATA_KEY, value=metadata.to_text())
    return _Traced(graph, bits, floats)


def _graph(form: Format, traced: _Traced, plan: ExportPlan) -> onnx.ModelProto:
    """The graph of one format, with the input and the restrictions of `plan`."""
    target, batch = plan.target, plan.batch or plan.target.batch
    if form is Format.QONNX:
        graph = clean(traced.graph, batch=batch, matmul=target.matmul)
    elif form is Format.QCDQ:  # keeps the older opset of the trace, so that it runs anywhere
        graph = to_qcdq(traced.graph)
    else:
        graph = to_integer(traced.graph, zero_points=target.zero_points, clip_values=target.clip_values)
        graph.ir_version = target.ir_version
        for entry in graph.opset_import:
            entry.version = target.opset
    if form is Format.PACKED:
        if not target.int2 and 2 in traced.bits.values():
            raise ExportError(
                f"target {target.name} has no 2-bit tensors; export --format {Format.INTEGER} for it"
            )
        graph = pack(graph, traced.bits, traced.floats)
    if batch and form is not Format.QONNX:  # whose batch is fixed already
        fix_batch(graph, batch)
    apply_input(graph, plan.input)
    return graph
