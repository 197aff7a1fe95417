"""Sessions of the runtimes that the bench scripts compare, and what the runtimes' own quantizers make."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from shared.record import float_twin

from qmu_edge.models.layers import Classifier

CALIBRATION = 128
Run = Callable[[np.ndarray], np.ndarray]


def float_file(model: Classifier, path: Path) -> None:
    """The float twin of a network as ONNX."""
    twin = float_twin(copy.deepcopy(model)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            twin, (torch.zeros(2, 3, 32, 32),), path, dynamo=True, verbose=False, external_data=False,
            input_names=["image"], output_names=["logits"], opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images for onnxruntime's own quantizer."""

    def __init__(self, images: np.ndarray) -> None:
        """Batches of 16."""
        self._batches: Iterator[np.ndarray] = iter(np.split(images, len(images) // 16))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def static_int8(source: Path, path: Path, images: np.ndarray) -> None:
    """Onnxruntime's own post-training quantization of the float file, in its fastest setting."""
    quantize_static(
        source, path, Reader(images), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def onnxruntime_run(path: Path, threads: int) -> Run:
    """Logits of a file under onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"image": x})[0])


def openvino_run(path: Path, threads: int) -> Run:
    """Logits of a file under OpenVINO, with float32 for what is not integer."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda x: np.asarray(compiled([x])[0])


def nncf_int8(source: Path, folder: Path, images: np.ndarray) -> Path:
    """OpenVINO's own post-training quantization of the float file."""
    import nncf
    import openvino

    batches = nncf.Dataset(np.split(images, len(images) // 16))
    quantized = nncf.quantize(openvino.Core().read_model(source), batches, subset_size=len(images) // 16)
    openvino.save_model(quantized, folder / "nncf.xml")
    return folder / "nncf.xml"
