"""Files and checkpoints of other tools, from `adopt` to a receipt that holds."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from tests.cli.conftest import RECIPE, Made, copied, run_command
from tests.cli.refusals import refused
from tests.elsewhere.brevitas_networks import answers
from tests.elsewhere.making import Images, brevitas_file, nncf_file, onnxruntime_file, trained

ELSEWHERE = Path(__file__).parents[1] / "elsewhere"
FLOAT, RESNET18 = (ELSEWHERE / name for name in ("float_network.py", "brevitas_resnet18.py"))
BYTES = 'activation_steps = "free"\nweight_bits = 8\nactivation_bits = '
W8A8, W8A7, AS_GIVEN = BYTES + "8\n", BYTES + "7\n", 'activation_steps = "free"\n'


class Shop(NamedTuple):
    """A project of the digits that is not trained, and its training images."""

    project: Path
    images: Images
    labels: np.ndarray


def shop(made: Made, folder: Path, model: Path | str, bits: str, *, size: int = 8) -> Shop:
    """One whose network is a file, or torchvision's."""
    folder.mkdir()
    text = RECIPE.replace("width = 0.125\n", bits).replace("size = 8\n", f"size = {size}\n")
    (folder / "recipe.toml").write_text(text)
    arguments = ("init", folder / "shop", "--recipe", folder / "recipe.toml", "--model", model, "--json")
    ended = run_command(*arguments)
    assert ended.code == 0, ended.err
    with opened(folder / "shop", Progress()) as found:
        rows = found.samples.trainable()
        return Shop(
            folder / "shop",
            np.array(found.samples.images[rows]),
            np.asarray(found.samples.index.labels)[rows],
        )


@pytest.fixture(scope="module")
def network(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], nn.Module]:
    """The network of a model file, trained on the digits outside of the product; each once."""
    known: dict[Path, nn.Module] = {}

    def make(model: Path) -> nn.Module:
        if model not in known:
            found = shop(made, tmp_path_factory.mktemp("outside") / "it", model, W8A8)
            torch.manual_seed(0)
            built = runpy.run_path(str(model))["build"]
            whole = built(None, type("Shape", (), {"channels": 1, "classes": 10}))
            steps = 600 if model == RESNET18 else 150
            known[model] = trained(whole, found.images, found.labels, steps=steps)
        return known[model]

    return make


def journey(project: Path, file: Path, request: Path, *options: object) -> Any:
    """Every command from `adopt` to a verified receipt; what `adopt` has said."""
    at = ("--project", project)
    adopted = run_command("adopt", file, "--trained-on", "registered", *options, *at, "--json")
    assert adopted.code == 0, adopted.err
    for command in (
        ("unlearn", "--request", request),
        ("verify", project / "release/model.onnx"),
        ("receipt", "verify"),
        ("doctor",),
    ):
        ended = run_command(*command, *at)
        assert ended.code == 0, f"{command}: {ended.err}"
    return adopted.json


FILES: dict[str, tuple[str, Callable[..., bytes], dict[str, Any]]] = {
    "QDQ with zero points": (W8A8, onnxruntime_file, {}),
    "QDQ, symmetric": (W8A7, onnxruntime_file, {"symmetric": True}),
    "QOperator with zero points": (W8A8, onnxruntime_file, {"operators": True}),
    "QOperator, symmetric": (W8A7, onnxruntime_file, {"operators": True, "symmetric": True}),
    "NNCF, symmetric": (W8A8, nncf_file, {"mixed": False}),
    "NNCF with zero points": (W8A8, nncf_file, {"mixed": True}),
}


def made_by(name: str, network: nn.Module, images: Images) -> bytes:
    """A file of a row."""
    _, make, options = FILES[name]
    if make is nncf_file:
        pytest.importorskip("nncf", reason="nncf is not installed: pip install nncf")
        return make(network, images, **options)
    from onnxruntime.quantization import QuantFormat, QuantType

    symmetric = options.get("symmetric", False)
    return make(
        network, images,
        quant_format=QuantFormat.QOperator if options.get("operators") else QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        extra_options={"ActivationSymmetric": symmetric},
    )  # fmt: skip


def exported_as(project: Path, file: bytes, images: Images, folder: Path) -> tuple[float, float]:
    """Of the export of an adopted network: agreement with a file, largest difference by largest logit."""
    ended = run_command("export", "--format", "integer", "--out", folder, "--project", project)
    assert ended.code == 0, ended.err
    ours, theirs = (answers(data, images) for data in ((folder / "model.onnx").read_bytes(), file))
    same = float((ours.argmax(1) == theirs.argmax(1)).mean())
    return same, float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_tool_goes_all_the_way(made: Made, network: Any, tmp_path: Path, name: str) -> None:
    place = shop(made, tmp_path / "it", FLOAT, FILES[name][0])
    data = made_by(name, network(FLOAT), place.images)
    (tmp_path / "theirs.onnx").write_bytes(data)
    untouched = copied(place.project, tmp_path / "untouched")
    told = journey(place.project, tmp_path / "theirs.onnx", made.request)
    assert told["agreement"]["agreement"] >= 0.999 and told["accuracy"]["test"] > 0.9
    ended = run_command(
        "adopt", tmp_path / "theirs.onnx", "--trained-on", "registered", "--project", untouched
    )
    assert ended.code == 0, ended.err
    same, difference = exported_as(untouched, data, place.images[:1000], tmp_path / "again")
    assert same >= 0.999 and difference < 0.1  # a code of a grid here and there


@pytest.mark.slow
def test_a_checkpoint_of_brevitas_goes_all_the_way(made: Made, network: Any, tmp_path: Path) -> None:
    place = shop(made, tmp_path / "it", RESNET18, AS_GIVEN)
    theirs = network(RESNET18)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "qat.pt")
    untouched = copied(place.project, tmp_path / "untouched")
    told = journey(place.project, tmp_path / "qat.pt", made.request)
    assert told["agreement"]["agreement"] >= 0.999 and "float_accuracy" not in told
    run_command("adopt", tmp_path / "qat.pt", "--trained-on", "registered", "--project", untouched)
    file = brevitas_file(theirs, place.images)
    same, difference = exported_as(untouched, file, place.images[:1000], tmp_path / "again")
    assert same >= 0.999 and difference < 0.3


@pytest.mark.slow
def test_the_file_that_brevitas_exports_goes_all_the_way(made: Made, network: Any, tmp_path: Path) -> None:
    place = shop(made, tmp_path / "it", RESNET18, AS_GIVEN)
    data = brevitas_file(network(RESNET18), place.images)
    (tmp_path / "qcdq.onnx").write_bytes(data)
    told = journey(place.project, tmp_path / "qcdq.onnx", made.request)
    assert told["agreement"]["agreement"] >= 0.999


@pytest.mark.slow
def test_float_weights_of_torchvision_go_all_the_way(made: Made, tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_small

    place = shop(made, tmp_path / "it", "torchvision:mobilenet_v3_small", W8A8, size=32)
    theirs = mobilenet_v3_small(num_classes=10)
    theirs.features[0][0] = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
    save_file(trained(theirs, place.images, place.labels, steps=600).state_dict(), tmp_path / "w.safetensors")
    told = journey(place.project, tmp_path / "w.safetensors", made.request)
    assert told["accuracy"]["test"] > told["float_accuracy"]["test"] - 0.05 > 0.5  # it is a short training


@pytest.mark.slow
def test_what_cannot_be_trained_says_which_node_is_why(made: Made, network: Any, tmp_path: Path) -> None:
    place = shop(made, tmp_path / "it", FLOAT, W8A8)
    model = onnx.load_from_string(made_by("QOperator with zero points", network(FLOAT), place.images))
    node = next(n for n in model.graph.node if n.op_type == "QLinearAdd")
    node.op_type = "QLinearMul"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    ended = run_command(
        "adopt", tmp_path / "other.onnx", "--trained-on", "registered", "--project", place.project, "--quiet"
    )
    refused(ended, 6, "other.onnx: Mul ", "a Mul ", "stands where the network of the recipe has Add")


@pytest.mark.slow
def test_weights_with_a_zero_point_are_said_to_have_one(made: Made, network: Any, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    place = shop(made, tmp_path / "it", FLOAT, W8A8)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
    data = onnxruntime_file(network(FLOAT), place.images, **types)
    (tmp_path / "unsigned.onnx").write_bytes(data)
    arguments = ("--trained-on", "registered", "--project", place.project, "--quiet")
    ended = run_command("adopt", tmp_path / "unsigned.onnx", *arguments)
    refused(ended, 6, "codes -128 to 127, allowed are -127 to 127", "without a zero point")
