"""What a file must pass before it exists: `onnx.checker`, the latent-weight gate, and parity.

Parity is measured on the bytes that would ship. Files of the deploy form agree to the bit whatever a runtime
does to the graph, so it is measured at every optimization level, with one thread and with two.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float, UInt8

from qmu_edge.errors import ExportError
from qmu_edge.verify import gates, onnx_file
from qmu_edge.verify.parity import Parity, compare
from qmu_edge.verify.runner import OPTIMIZATION, OrtRunner

Levels = dict[str, Parity]
LEVEL_IMAGES: Final = 16
BATCH: Final = 64


def check_file(data: bytes) -> dict[str, Any]:
    """`onnx.checker` and the latent-weight gate on the bytes that would ship.

    Raises:
        ExportError: Either finds something.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker: {str(error).strip().partition(chr(10))[0]}") from None
    with _on_disk(data) as path:
        return asdict(gates.check_latent_weights(onnx_file.read(path)))


def run_file(
    data: bytes, images: UInt8[np.ndarray, "n c h w"], *, optimization: str = "all", threads: int = 2
) -> Float[np.ndarray, "n k"]:
    """Logits of the file under onnxruntime.

    QONNX has no operators there; qonnx's own converter, which shares no code with ours, turns it into
    standard ONNX first.
    """
    with _on_disk(_standard(data)) as path:
        return OrtRunner(path, threads=threads, optimization=optimization).logits(images, batch=BATCH)


def levels(data: bytes, images: UInt8[np.ndarray, "n c h w"], logits: Float[np.ndarray, "n k"]) -> Levels:
    """Parity on a few images, for each optimization level and for one thread and two."""
    images, logits = images[:LEVEL_IMAGES], logits[:LEVEL_IMAGES]
    found: Levels = {}
    with _on_disk(_standard(data)) as path:
        for optimization in OPTIMIZATION:
            for threads in (1, 2):
                runner = OrtRunner(path, threads=threads, optimization=optimization)
                found[f"{optimization}, {threads} threads"] = compare(logits, runner.logits(images))
    return found


@contextmanager
def _on_disk(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        yield path


def _standard(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    if all(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        return data
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    converted: bytes = ModelWrapper(model).transform(QuantToQCDQ()).model.SerializeToString()
    return converted
