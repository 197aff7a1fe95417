"""What a file must pass before it exists: `onnx.checker`, the latent-weight gate, and parity.

Parity is measured on the bytes that would ship. Files of the deploy form agree to the bit whatever a runtime
does to the graph, so it is measured at every optimization level, with one thread and with two.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float, UInt8

from qmu_edge.errors import ExportError
from qmu_edge.verify import latent_weights
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.onnx import reader
from qmu_edge.verify.parity import Parity, compare
from qmu_edge.verify.session import OPTIMIZATION, OrtRunner

Levels = dict[str, Parity]


@dataclass(frozen=True, slots=True)
class Arbitration:
    """Images on which file and network name different classes, and whom the integer reference sides with.

    Attributes:
        disagreements: How many there are.
        asked: On how many of them the reference was run; 0 for a file that is not all integers.
        as_file: On how many of those it names the file's class: the network rounded a sum at a tie.
    """

    disagreements: int
    asked: int
    as_file: int

    def __str__(self) -> str:
        """Whom the reference sides with, to go behind a message; nothing where it was not asked."""
        if not self.asked:
            return ""
        return f"; on {self.as_file} of {self.asked} that differ, exact integers say what the file says"


MAIN_LEVEL: Final = "all, 2 threads"  # where parity is measured on more images
LEVEL_IMAGES: Final = 8
EXPLAINED_IMAGES: Final = 16
BATCH: Final = 64


def require_valid(data: bytes) -> dict[str, Any]:
    """`onnx.checker` and the latent-weight gate on the bytes that would ship.

    Raises:
        ExportError: Either finds something.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker: {str(error).strip().partition(chr(10))[0]}") from None
    with _on_disk(data) as path:
        return asdict(latent_weights.latent_weight_gate(reader.read(path)))


def runnable(data: bytes) -> bytes:
    """The file as onnxruntime can run it.

    QONNX has no operators there; qonnx's own converter, which shares no code with ours, turns it into
    standard ONNX first.
    """
    model = onnx.load_from_string(data)
    if all(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        return data
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    converted: bytes = ModelWrapper(model).transform(QuantToQCDQ()).model.SerializeToString()
    return converted


def run_file(
    data: bytes, images: UInt8[np.ndarray, "n c h w"], *, optimization: str = "all", threads: int = 2
) -> Float[np.ndarray, "n k"]:
    """Logits of a runnable file under onnxruntime."""
    with _on_disk(data) as path:
        return OrtRunner(path, threads=threads, optimization=optimization).logits(images, batch=BATCH)


def parity_by_level(
    data: bytes, images: UInt8[np.ndarray, "n c h w"], logits: Float[np.ndarray, "n k"]
) -> Levels:
    """Parity of a runnable file on a few images, for each level and thread count but those of `run_file`."""
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
    """Who is right where file and network name different classes: integers in numpy, which round no sum.

    Args:
        data: The file.
        images: That both ran on.
        logits: Of the network.
        found: Of the file.
    """
    differing = np.flatnonzero(logits.argmax(1) != found.argmax(1))
    some = differing[:EXPLAINED_IMAGES]
    if not len(some):
        return Arbitration(len(differing), 0, 0)
    with _on_disk(data) as path:
        file = reader.read(path)
        try:
            fed = OrtRunner(path).fed(images[some])
            reference = run_integers(file, fed)[file.graph.outputs[0].name]
        except ExportError:  # a float layer, or a format without integer layers
            return Arbitration(len(differing), 0, 0)
    as_file = int((reference.argmax(1) == found[some].argmax(1)).sum())
    return Arbitration(len(differing), len(some), as_file)


@contextmanager
def _on_disk(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        yield path
