"""Device-ready files from one network: trace, replace latent weights, write, pass the gates.

    trace.py   one QONNX trace of the network, cleaned
    qonnx.py   code x scale in front of Quant nodes
    qcdq.py    standard ONNX with integer codes

A file exists only after its gates: `onnx.checker`, the latent-weight gate, and parity with the network on
at least a thousand images under onnxruntime.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float, UInt8

from qmu_edge import __version__
from qmu_edge.errors import ExportError
from qmu_edge.export.qcdq import to_qcdq
from qmu_edge.export.qonnx import integer_weights, quantizers
from qmu_edge.export.trace import initializers, trace
from qmu_edge.models.layers import Classifier
from qmu_edge.models.scales import weight_layers
from qmu_edge.verify import gates, onnx_file
from qmu_edge.verify.parity import Parity, check_parity, compare
from qmu_edge.verify.runner import OrtRunner

FILES: Final = {"qcdq": "model.onnx", "qonnx": "model.qonnx.onnx"}


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported file and what its gates found.

    Attributes:
        format: "qcdq" or "qonnx".
        data: The file.
        parity: Agreement with the network.
        gate: The latent-weight gate's report, as plain values.
    """

    format: str
    data: bytes
    parity: Parity
    gate: dict[str, Any]


def export(
    model: Classifier,
    *,
    formats: tuple[str, ...],
    class_names: tuple[str, ...],
    images: UInt8[np.ndarray, "n c h w"],
    logits: Float[np.ndarray, "n k"],
    min_agreement: float,
    min_inputs: int,
) -> list[Exported]:
    """Export a network and pass every file through its gates.

    Args:
        model: Calibrated and re-quantized.
        formats: Among `FILES`.
        class_names: Written into the file.
        images: Inputs of the parity gate; square.
        logits: What the network answers to them in torch.
        min_agreement: Share of inputs with the same largest logit.
        min_inputs: Fewest inputs that the parity gate accepts.

    Raises:
        ExportError: A gate does not pass; nothing is returned.
    """
    unknown = [f for f in formats if f not in FILES]
    if unknown:
        raise ExportError(f"format {unknown[0]!r} is not one of {', '.join(FILES)}")
    qonnx = trace(model, images.shape[-1])
    integer_weights(qonnx)
    _describe(qonnx, model, class_names)
    graphs = {"qonnx": qonnx, "qcdq": to_qcdq(qonnx)}
    found = []
    for name in formats:
        data = graphs[name].SerializeToString(deterministic=True)
        gate = check_file(data)
        answers = run_file(data, name, images)
        parity = compare(logits, answers)
        check_parity(parity, min_agreement=min_agreement, min_inputs=min_inputs)
        found.append(Exported(name, data, parity, gate))
    return found


def _describe(graph: onnx.ModelProto, model: Classifier, class_names: tuple[str, ...]) -> None:
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
        "weight_bits": bits,
        "float_weights": float_weights,
        "activation_bits": model.recipe.activation_bits,
        "input": {"layout": "NCHW", "range": [0.0, 1.0], "channels": model.shape.channels},
        "classes": list(class_names),
    }
    entry = graph.metadata_props.add()
    entry.key = "qmu_edge"
    entry.value = json.dumps(about, sort_keys=True, separators=(",", ":"))


def _float_weights(graph: onnx.ModelProto) -> list[str]:
    """Weights that no quantizer stands before; the tracer folds batch-norm into these."""
    stored = initializers(graph)
    layers = [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return [node.input[1] for node in layers if node.input[1] in stored]


def check_file(data: bytes) -> dict[str, Any]:
    """`onnx.checker` and the latent-weight gate on the bytes that would ship.

    Raises:
        ExportError: Either finds something.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker: {str(error).strip().partition(chr(10))[0]}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        return asdict(gates.check_latent_weights(onnx_file.read(path)))


def run_file(data: bytes, format_name: str, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n k"]:
    """Logits of the file under onnxruntime.

    QONNX has no operators there; qonnx's own converter, which shares no code with ours, turns it into
    standard ONNX first.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data if format_name == "qcdq" else _converted(data))
        return OrtRunner(path, threads=2).logits(images)


def _converted(data: bytes) -> bytes:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    wrapped = ModelWrapper(onnx.load_from_string(data)).transform(QuantToQCDQ())
    converted: bytes = wrapped.model.SerializeToString()
    return converted
