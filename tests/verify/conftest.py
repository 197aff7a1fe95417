"""Small model files for the verifier's tests, made by hand and exported by Brevitas, and sets for them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.session import OrtRunner
from tests.verify import files

Save = Callable[[onnx.ModelProto], Path]
ModelAndSets = tuple[Path, dict[SetName, Labelled]]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Builders and editors of model protos."""
    return SimpleNamespace(qcdq=files.qcdq, qonnx=files.qonnx, replace=files.replace, value_of=files.value_of)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a model proto and give its path."""
    return lambda model: files.write(tmp_path / "model.onnx", model)


@pytest.fixture
def model_and_sets(tmp_path: Path) -> ModelAndSets:
    """A file, and sets on which its accuracy is 3/4."""
    path = files.write(tmp_path / "model.onnx", files.qcdq())
    chance, sets = np.random.default_rng(0), {}
    for name in SetName:
        images = chance.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
        labels = OrtRunner(path).logits(images).argmax(axis=1)
        labels[::4] = (labels[::4] + 1) % 5
        sets[name] = Labelled(images, labels)
    return path, sets


@pytest.fixture
def known(model_and_sets: ModelAndSets, tmp_path: Path) -> Path:
    """Sets of which the same file knows the forget set by heart, with what references think of each image."""
    path, sets = model_and_sets
    chance = np.random.default_rng(1)
    arrays: dict[str, Any] = {"networks": np.array(3), "intraclass": np.array(0.0), "flip": np.array(1)}
    for name, (images, labels) in sets.items():
        right = OrtRunner(path).logits(images).argmax(axis=1)
        unseen = name in (SetName.TEST, SetName.VALIDATION)
        arrays[f"{name}_images"] = images
        arrays[f"{name}_labels"] = chance.integers(0, 5, len(labels)) if unseen else right
        arrays[f"{name}_references"] = chance.normal(size=len(labels))
        arrays[f"{name}_people"] = np.arange(len(labels))
    np.savez(tmp_path / "known.npz", **arrays)
    return tmp_path / "known.npz"


@pytest.fixture(scope="session")
def brevitas_exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export one tiny 4-bit net in the three ways of Brevitas: two of them ship latent weights."""
    folder = tmp_path_factory.mktemp("brevitas")
    paths = {name: folder / f"{name}.onnx" for name in ("qcdq", "qcdq_dynamo", "qonnx")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and brevitas warn about each other
        import torch
        from brevitas.export import export_onnx_qcdq, export_qonnx
        from brevitas.nn import QuantConv2d, QuantReLU

        torch.manual_seed(0)
        net = torch.nn.Sequential(
            QuantConv2d(3, 4, 3, bias=False, weight_bit_width=4),
            QuantReLU(bit_width=4),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
        images = torch.rand(8, 3, 8, 8)
        net(images)
        net.eval()
        x = images[:1]
        kept = {"keep_initializers_as_inputs": False, "opset_version": 18}
        export_onnx_qcdq(net, args=x, export_path=str(paths["qcdq"]), dynamo=False, **kept)
        export_onnx_qcdq(net, args=x, export_path=str(paths["qcdq_dynamo"]), dynamo=True, **kept)
        export_qonnx(net, args=x, export_path=str(paths["qonnx"]), dynamo=True, optimize=True, **kept)
    return paths
