"""The numpy integer reference against onnxruntime: every integer tensor, bit for bit."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from qmu_edge.errors import ExportError
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.input import InputSpec
from qmu_edge.export.targets import TARGETS, Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.integer_reference import convolve, run_integers
from qmu_edge.verify.metadata import Dtype
from qmu_edge.verify.onnx.reader import read

pytestmark = pytest.mark.filterwarnings("default")  # torch, brevitas and onnx warn while they trace
W4A4: dict[str, Any] = {"weight_bits": 4, "activation_bits": 4}
W8A8: dict[str, Any] = {"weight_bits": 8, "activation_bits": 8}
ROWS: list[Any] = [
    ({**W4A4, "activation_steps": "free"}, 8, Format.PACKED),
    pytest.param({**W4A4, "target": "openvino"}, 8, Format.INTEGER, marks=pytest.mark.slow),
    pytest.param({**W8A8, "activation_steps": "free"}, 8, Format.INTEGER, marks=pytest.mark.slow),
    pytest.param(
        {**W4A4, "stem": "imagenet", "activation_steps": "free"}, 40, Format.INTEGER, marks=pytest.mark.slow
    ),
    pytest.param({**W4A4, "architecture": "mobilenet_v2"}, 16, Format.PACKED, marks=pytest.mark.slow),
    pytest.param(
        {**W8A8, "architecture": "mobilenet_v2", "activation_steps": "free"},
        16,
        Format.INTEGER,
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture
def file(network: Callable[..., Classifier], toy: Callable[..., Samples]) -> Callable[..., bytes]:
    """An exported file of a re-quantized network."""

    def make(recipe: dict[str, Any], size: int, form: Format) -> bytes:
        target = TARGETS[recipe.pop("target", "onnxruntime")]
        model, samples = network(**recipe), _resized(toy(32, seed=1), size)
        requantize(model, samples, batch=8, seed=0, progress=Progress())
        plan = ExportPlan(
            formats=(form,), class_names=("a", "b", "c"), input=InputSpec(Dtype.UINT8), target=target
        )
        (made,) = export(model, plan, images=samples.images().numpy(), min_agreement=0.9, min_inputs=1)
        return made.data

    return make


def _resized(samples: Samples, size: int) -> Samples:
    factor = size // 8
    pool = samples.pool.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return Samples(pool, samples.index, samples.labels, samples.device)


@pytest.mark.parametrize(("recipe", "size", "form"), ROWS)
def test_every_integer_tensor_is_equal(
    file: Callable[..., bytes], tmp_path: Path, recipe: dict[str, Any], size: int, form: Format
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(file(dict(recipe), size, form))
    images = np.random.default_rng(0).integers(0, 256, (4, 1, size, size), np.uint8)
    expected, kernels = _all_codes(path, images)
    # clipped values are OpenVINO's: onnxruntime does not fuse them
    assert recipe.get("target") or (kernels["QLinearConv"] >= 20 and kernels["Conv"] == 0)
    found = run_integers(read(path), images)
    assert len(expected) > 25
    for name, values in expected.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
        else:
            assert np.array_equal(found[name], values), name


def _all_codes(path: Path, images: np.ndarray) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """Every code tensor and the output under onnxruntime, which still fuses its integer kernels."""
    model = onnx.load(path)
    made = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "Clip", "MaxPool")]
    values = {n.input[0] for n in made if n.op_type == "QuantizeLinear"}  # clipped before they are codes
    for node in (n for n in made if n.output[0] not in values):
        model.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.UINT8, None))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.parent / "optimized.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"image": images})
    ran = Counter(n.op_type for n in onnx.load(path.parent / "optimized.onnx").graph.node)
    return dict(zip(names, found, strict=True)), ran


@pytest.mark.parametrize(("stride", "groups", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 4, 3), (2, 2, 1)])
def test_convolution_is_the_convolution(stride: int, groups: int, kernel: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, 4, 9, 7))
    w = rng.integers(-8, 8, (8, 4 // groups, kernel, kernel))
    pad = kernel // 2
    expected = torch.nn.functional.conv2d(
        torch.tensor(x, dtype=torch.float64), torch.tensor(w, dtype=torch.float64),
        stride=stride, padding=pad, groups=groups,
    )  # fmt: skip
    found = convolve(x, w, (stride, stride), (pad,) * 4, groups)
    assert np.array_equal(found, expected.numpy())


@pytest.mark.slow
def test_a_file_with_float_layers_is_refused(file: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(file({"weight_bits": 4, "activation_bits": "float"}, 8, Format.INTEGER))
    with pytest.raises(ExportError, match="a float layer"):
        run_integers(read(path), np.zeros((1, 1, 8, 8), np.uint8))
