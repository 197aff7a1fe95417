"""Validation of a file before it is written: `onnx.checker`, the latent-weight gate, and parity.

Parity is measured on the exported bytes. A file of the deploy form gives the same bits under every graph
optimization, so parity is measured at every optimization level, with one thread and with two.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from jaxtyping import Float, UInt8

from qmu_edge.errors import ExportError
from qmu_edge.export.formats.qcdq import to_qcdq
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.latent_weights import LatentReport, latent_weight_gate
from qmu_edge.verify.onnx.operators import require_bounded
from qmu_edge.verify.onnx.reader import OnnxFile, parse_file
from qmu_edge.verify.parity import Parity, compare
from qmu_edge.verify.rounding import Obstacle
from qmu_edge.verify.session import OPTIMIZATION, OrtRunner

MAIN_LEVEL: Final = "all, 2 threads"  # where parity is measured on more images
LEVEL_IMAGES: Final = 8
ARBITRATED_IMAGES: Final = 16
BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Arbitration:
    """Images on which file and network predict different classes, compared with the integer reference.

    Attributes:
        disagreements: Number of such images.
        asked: Number of them that the integer reference was run on; 0 for a file with float layers.
        as_file: Number of those on which it predicts the file's class: there the network rounded a sum at a
            tie.
    """

    disagreements: int
    asked: int
    as_file: int

    def __str__(self) -> str:
        """Text to append to a message; empty where the reference was not run."""
        if not self.asked:
            return ""
        return f"; on {self.as_file} of {self.asked} that differ, exact integers say what the file says"


def require_valid(data: bytes) -> LatentReport:
    """Run `onnx.checker`, the latent-weight gate and the verifier's bounds on the exported bytes.

    Returns:
        The report of the latent-weight gate.

    Raises:
        ExportError: A check fails.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker: {str(error).strip().partition(chr(10))[0]}") from None
    file = _file(data)
    require_bounded(file)
    return latent_weight_gate(file)


def unproven(data: bytes) -> tuple[Obstacle, ...]:
    """What keeps the exported bytes from being proven to compute the same on every processor."""
    return obstacles(_file(data))


def runnable(data: bytes) -> bytes:
    """The file in a form that onnxruntime can run.

    onnxruntime has no QONNX operators. qonnx's own converter, which shares no code with this package,
    converts them to standard ONNX.
    """
    model = onnx.load_from_string(data)
    if all(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        return data
    _describe_once(model.graph)
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    converted: onnx.ModelProto = ModelWrapper(model).transform(QuantToQCDQ()).model
    if any(node.op_type == "Quant" for node in converted.graph.node):  # it leaves those with a zero point
        converted = to_qcdq(converted)
    standard: bytes = converted.SerializeToString()
    return standard


def _describe_once(graph: onnx.GraphProto) -> None:
    """Leave no description of a graph's ends among those of its values, in place.

    onnxruntime's preparation for quantization leaves one there; the checker takes it, and qonnx does not.
    """
    ends = {value.name for value in (*graph.input, *graph.output)}
    for value in [value for value in graph.value_info if value.name in ends]:
        graph.value_info.remove(value)


def run_file(
    data: bytes, images: UInt8[np.ndarray, "n c h w"], *, optimization: str = "all", threads: int = 2
) -> Float[np.ndarray, "n k"]:
    """Run a file under onnxruntime.

    Args:
        data: From `runnable`.
        images: As `OrtRunner.logits` takes them.
        optimization: See `OrtRunner`.
        threads: Threads of onnxruntime.

    Raises:
        IntegrityError: See `OrtRunner`.
        ExportError: See `OrtRunner`.
    """
    return OrtRunner(_file(data), threads=threads, optimization=optimization).logits(images, batch=BATCH)


def parity_by_level(
    data: bytes, images: UInt8[np.ndarray, "n c h w"], logits: Float[np.ndarray, "n k"]
) -> dict[str, Parity]:
    """Compare a runnable file with the network at every optimization level and thread count but `MAIN_LEVEL`.

    Args:
        data: The file.
        images: Inputs; only the first `LEVEL_IMAGES` are run.
        logits: Logits of the network for `images`.
    """
    images, logits = images[:LEVEL_IMAGES], logits[:LEVEL_IMAGES]
    return {
        name: compare(logits, run_file(data, images, optimization=optimization, threads=threads))
        for optimization in OPTIMIZATION
        for threads in (1, 2)
        if (name := f"{optimization}, {threads} threads") != MAIN_LEVEL
    }


def arbitrate(
    data: bytes,
    images: UInt8[np.ndarray, "n c h w"],
    logits: Float[np.ndarray, "n k"],
    found: Float[np.ndarray, "n k"],
) -> Arbitration:
    """Run the integer reference, whose sums are exact, where file and network predict different classes.

    Args:
        data: The file.
        images: Inputs of both.
        logits: Logits of the network.
        found: Logits of the file.
    """
    differing = np.flatnonzero(logits.argmax(1) != found.argmax(1))
    some = differing[:ARBITRATED_IMAGES]
    if not len(some):
        return Arbitration(len(differing), 0, 0)
    file = _file(data)
    try:
        fed = OrtRunner(file).fed(images[some])
        reference = run_integers(file, fed)[file.graph.outputs[0].name]
    except ExportError:  # a float layer, or a format without integer layers
        return Arbitration(len(differing), 0, 0)
    as_file = int((reference.argmax(1) == found[some].argmax(1)).sum())
    return Arbitration(len(differing), len(some), as_file)


def _file(data: bytes) -> OnnxFile:
    """The exported bytes as a device reads them."""
    return parse_file(data, Path("model.onnx"))
