"""Every ready architecture, from training on codes to files, and unlearned once by four methods."""

import copy
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch

from qmu_edge.export.exporter import Exported, ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.deploy import deploy
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ARCHITECTURES, ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply, parameters
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.known import ROOT
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.rounding import Obstacle
from tests.export.architectures import (
    BITS,
    FLOATS,
    METHODS,
    NOT_PROVEN,
    OF_TORCHVISION,
    PRODUCTS_OF_MATRICES,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves
Toy = Callable[..., Samples]
NAMES = (*ARCHITECTURES, *OF_TORCHVISION)
TRAIN = TrainRecipe(epochs=1, batch=16, lr=0.02, warmup=0.0, precision="float32")
KINDS = (torch.nn.Conv2d, torch.nn.Linear)
SIZE = 16


def made(name: str, bits: str) -> Classifier:
    """A narrow one for grey images."""
    width = 1.0 if name.startswith("torchvision:") else 0.125
    recipe = ModelRecipe.model_validate(
        {"architecture": name, "width": width, "reduce_range": True, **BITS[bits]}
    )
    return build(recipe, Shape(channels=1, classes=3, size=SIZE), 0)


def larger(samples: Samples) -> Samples:
    """The same images with four pixels for each."""
    pool = samples.pool.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return Samples(pool, samples.index, samples.labels, samples.device)


def trained(model: Classifier, samples: Samples) -> Classifier:
    fit(model, samples, TRAIN, Augment(), progress=Progress())
    return requantize(model, samples, batch=16, seed=0, progress=Progress())


def files_of(model: Classifier, toy: Toy, *formats: Format) -> dict[Format, Exported]:
    plan = ExportPlan(formats=formats, class_names=("a", "b", "c"))
    images = larger(toy(64, seed=2)).images().numpy()
    found = export(model, plan, images=images, min_agreement=0.98, min_inputs=64)
    return {file.format: file for file in found}


def kernels(data: bytes, path: Path) -> Counter[str]:
    """The operators that onnxruntime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def require_proven(name: str, found: tuple[Obstacle, ...]) -> None:
    """A file is the same on every processor, but for what is said of its architecture."""
    assert bool(found) == (name in NOT_PROVEN)
    assert all(obstacle.why == ROOT for obstacle in found)


def rows() -> list[Any]:
    """All combinations; a small one runs always."""
    return [
        pytest.param(*row, marks=[] if row == ("small_vgg", "W4A4") else pytest.mark.slow)
        for row in product(NAMES, BITS)
    ]


def test_what_is_said_is_of_architectures() -> None:
    assert {*FLOATS, *NOT_PROVEN, *PRODUCTS_OF_MATRICES} <= set(NAMES)


@pytest.mark.parametrize(("name", "bits"), rows())
def test_files_are_exact_proven_and_of_integer_kernels(
    name: str, bits: str, toy: Toy, tmp_path: Path
) -> None:
    model = trained(made(name, bits), larger(toy(32)))
    files = files_of(model, toy, *Format)
    if bits == "W2AF":
        return  # agreement is all that its gates promise
    for file in files.values():
        assert file.parity.max_abs_difference == 0.0
        assert not any(level.max_abs_difference for level in file.levels.values())
    for form in (Format.INTEGER, Format.PACKED):
        require_proven(name, files[form].obstacles)
        ran = kernels(files[form].data, tmp_path / "optimized.onnx")
        layers = Counter(kind for m in deploy(model, SIZE).modules() for kind in KINDS if isinstance(m, kind))
        floats = name == "squeezenet1_1"
        assert ran["QLinearConv"] == layers[torch.nn.Conv2d] - floats
        assert ran["Conv"] == floats and ran["FusedConv"] == 0
        assert ran["QGemm"] == layers[torch.nn.Linear] and ran["MatMul"] == 0
        assert ran["QLinearMatMul"] == PRODUCTS_OF_MATRICES.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_integers_of_numpy_are_those_of_the_file(name: str, toy: Toy, tmp_path: Path) -> None:
    model, samples = trained(made(name, "W4A4"), larger(toy(32))), larger(toy(4, seed=5))
    path = tmp_path / "model.onnx"
    path.write_bytes(files_of(model, toy, Format.INTEGER)[Format.INTEGER].data)
    images = (samples.images() / 255.0).numpy()
    with torch.no_grad():
        expected = deploy(model, SIZE)(torch.from_numpy(images)).numpy()
    found = run_integers(read(path), images)["logits"]
    assert abs(found - expected).max() <= 1e-5 * abs(expected).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_unlearned_once_and_exported(name: str, method: str, toy: Toy) -> None:
    everything = larger(toy(24))
    ours = everything.labels == 2 if method == "unsir" else torch.arange(24) < 6
    data = ForgetRetain(
        forget=everything.take(torch.nonzero(ours)[:, 0]), retain=everything.take(torch.nonzero(~ours)[:, 0]),
        validation=larger(toy(6, seed=1)).take(torch.tensor([0, 1, 3, 4])), augment=Augment(pad=1),
        classes=(2,) if method == "unsir" else (),
    )  # fmt: skip
    model = trained(made(name, "W4A4"), everything)
    before = copy.deepcopy(model.state_dict())
    params = parameters(method, METHODS[method], TRAIN)
    result = apply(method, model, data, params, torch.Generator().manual_seed(0))
    assert any(not torch.equal(v, before[k]) for k, v in result.state_dict().items())
    requantize(result, data.retain, batch=6, seed=0, progress=Progress())
    (file,) = files_of(result, toy, Format.INTEGER).values()
    assert file.parity.max_abs_difference == 0.0
    require_proven(name, file.obstacles)
