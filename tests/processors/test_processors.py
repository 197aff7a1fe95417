"""Exported files on other processors: every logit is equal to this machine's, and a bundle passes."""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jaxtyping import Int64, UInt8

from qmu_edge.data.sources import load
from qmu_edge.export.bundle import write_bundle
from qmu_edge.export.exporter import Exported, ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import DataRecipe, ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, on_device
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.verdict import Thresholds
from tests.processors.emulated import ARM, X86, Emulated, NotHere, Web
from tests.processors.logits import write_logits
from tests.verify.bundles import issued

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

REPOSITORY: Final = Path(__file__).parents[2]
PLACE: Final = Path(tempfile.gettempdir()) / "qmu-edge-processors"  # kept: 450 MB
IMAGES: Final = 4
CLASSES: Final = tuple(map(str, range(10)))
FORMATS: Final = (Format.INTEGER, Format.PACKED, Format.QCDQ)
MOBILENET: Final[dict[str, Any]] = {"architecture": "mobilenet_v2", "width": 0.25}
W8A8: Final[dict[str, Any]] = {"weight_bits": 8, "activation_bits": 8}
NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "resnet18-w4a4": {},
    "resnet18-w2a4": {"weight_bits": 2},
    "resnet18-w8a8": W8A8,
    "resnet18-w4a4-imagenet": {"stem": "imagenet"},
    "mobilenet_v2-w4a4": MOBILENET,
    "mobilenet_v2-w8a8": MOBILENET | W8A8,
    "mobilenet_v2-w4a4-imagenet": MOBILENET | {"stem": "imagenet"},
    "mobilenet_v3_small-w8a8": {"architecture": "mobilenet_v3_small"} | W8A8,  # tables, products
    "squeezenet1_1-w4a4": {"architecture": "squeezenet1_1"},  # joined tensors, a mean that gives the logits
    "efficientnet_lite0-w4a4": {"architecture": "efficientnet_lite0"},
}
Files = tuple[Path, dict[str, np.ndarray]]  # a folder of files, and this machine's logits


def _trained(
    recipe: ModelRecipe, images: UInt8[np.ndarray, "n c h w"], labels: Int64[np.ndarray, " n"]
) -> Classifier:
    """Two epochs on digits: an untrained network rounds too little to show a difference."""
    model = build(recipe, Shape(channels=1, classes=10), 0)
    samples = on_device(images, labels, torch.device("cpu"), limit_bytes=1 << 30)
    fit(model, samples, TrainRecipe(epochs=2, batch=64, lr=0.05), Augment(1, False), progress=Progress())
    return requantize(model, samples, batch=64, seed=0, progress=Progress())


@pytest.fixture(scope="module")
def exported() -> tuple[dict[str, list[Exported]], np.ndarray]:
    """Files of every network, and images."""
    source = load(DataRecipe(source="digits", size=16), Progress())
    images, labels = source.images[:1200], np.asarray(source.labels[:1200], np.int64)
    plan = ExportPlan(formats=FORMATS, class_names=CLASSES)
    found = {}
    for name, changes in NETWORKS.items():
        recipe = ModelRecipe(**{"width": 0.125, "reduce_range": True, **changes})
        model = _trained(recipe, images, labels)
        found[name] = export(model, plan, images=images[:1000], min_agreement=0.999, min_inputs=1000)
    return found, source.images[1200 : 1200 + IMAGES]


@pytest.fixture(scope="module")
def files(exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same in a folder, and the logits of this machine."""
    folder = tmp_path_factory.mktemp("files")
    found, images = exported
    np.save(folder / "images.npy", images)
    for name, files in found.items():
        for file in files:
            (folder / f"{name}.{file.format.value}.onnx").write_bytes(file.data)
    write_logits(folder, folder / "here.npz")
    return folder, _read(folder / "here.npz")


@pytest.fixture(scope="session")
def emulated() -> Emulated:
    """Skip in one line where there is no emulator and none can be had."""
    try:
        return Emulated(PLACE)
    except NotHere as error:
        pytest.skip(str(error))


def _read(out: Path) -> dict[str, np.ndarray]:
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("processor", [*ARM, *X86])
def test_every_logit_is_the_same(files: Files, emulated: Emulated, processor: str) -> None:
    folder, expected = files
    out = folder / f"{processor}.npz"
    script = [str(REPOSITORY / "tests/processors/logits.py"), str(folder), str(out)]
    try:
        ended = emulated.run(processor, script, REPOSITORY)
    except NotHere as error:
        pytest.skip(str(error))
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = _read(out)
    differences = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
    assert len(found) == 2 * len(FORMATS) * len(NETWORKS) and not any(differences.values()), differences


def test_every_logit_is_the_same_in_a_browser(files: Files) -> None:
    folder, expected = files
    try:
        web = Web(PLACE / "web")
    except NotHere as error:
        pytest.skip(str(error))
    images, out = np.load(folder / "images.npy"), folder / "web.json"
    (images.astype(np.float32) / np.float32(255)).tofile(folder / "images.raw")
    arguments = [str(folder), str(folder / "images.raw"), str(images.shape[2]), str(out)]
    ended = web.run(Path(__file__).with_name("web.mjs"), arguments)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = {k: np.float32(v).reshape(len(images), -1) for k, v in json.loads(out.read_text()).items()}
    assert found.keys() == expected.keys()
    differences = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
    assert not any(differences.values()), differences


@pytest.mark.parametrize("processor", ["cortex-a72", "Haswell"])
def test_a_bundle_passes(exported: Any, emulated: Emulated, processor: str, tmp_path: Path) -> None:
    (file,) = [f for f in exported[0]["resnet18-w8a8"] if f.format is Format.INTEGER]
    write_bundle(
        tmp_path / "bundle", {"model.onnx": file.data}, model="model.onnx", thresholds=Thresholds(),
        min_agreement=1.0, issued=issued(), key=Ed25519PrivateKey.generate(),
    )  # fmt: skip
    try:
        ended = emulated.run(processor, ["-m", "qmu_edge.verify", str(tmp_path / "bundle")], REPOSITORY)
    except NotHere as error:
        pytest.skip(str(error))
    assert ended.returncode == 0 and "passed          yes" in ended.stdout, ended.stderr[-2000:]
    assert "same bits       on every processor: proven" in ended.stdout
