"""A network of the user's own: from one file to an exported one, and everything that is not a network."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches, parameter_group
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.own import factory_in
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.checkpoint import Origin, dumps, loads
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply, parameters

Toy = Callable[..., Samples]
SHAPE = Shape(channels=1, classes=3)
README = (Path(__file__).parents[2] / "models" / "README.md").read_text("utf-8")
PLAIN, TWO_CONVOLUTIONS = (part.split("```")[0] for part in README.split("```python\n")[1:3])
TRAIN = TrainRecipe(epochs=1, batch=8, lr=0.05, warmup=0.0, precision="float32")


def made(text: str, **fields: Any) -> Classifier:
    """The network of a model file."""
    digest = sha256_of(text.encode())
    recipe = ModelRecipe(architecture="file", path="mine.py", sha256=digest, **fields)
    return build(recipe, SHAPE, seed=0, factory=factory_in(text.encode(), recipe))


def body(lines: str) -> str:
    """A model file whose `build` ends with these lines."""
    return f"from torch import nn\nimport torch\ndef build(layers, shape):\n    {lines}\n"


def exported(model: Classifier, toy: Toy, *formats: Format) -> list[Any]:
    return export(
        model, ExportPlan(formats=formats or (Format.INTEGER,), class_names=("a", "b", "c")),
        images=toy(64, seed=2).images().numpy(), min_agreement=0.99, min_inputs=64,
    )  # fmt: skip


@pytest.mark.filterwarnings("default")  # tracing: torch and brevitas warn about themselves
@pytest.mark.parametrize(
    "preset", [p if p == "learned_step" else pytest.param(p, marks=pytest.mark.slow) for p in PRESETS]
)
def test_trained_unlearned_retrained_and_exported_as_any_other(preset: str, toy: Toy) -> None:
    model, everything = made(TWO_CONVOLUTIONS, quantizer=preset), toy(24)
    data = ForgetRetain(
        forget=everything.take(torch.arange(6)), retain=everything.take(torch.arange(6, 24)),
        validation=toy(6, seed=1), augment=Augment(pad=1),
    )  # fmt: skip
    fit(model, everything, TRAIN, data.augment, progress=Progress())
    for name in ("finetune", "retrain"):
        given = {} if name == "retrain" else {"epochs": 1, "batch": 8}
        params = parameters(name, given, TRAIN)
        result = apply(name, copy.deepcopy(model), data, params, torch.Generator().manual_seed(0))
        requantize(result, data.retain, batch=6, seed=0, progress=Progress())
        for file in exported(result, toy):
            assert file.parity.max_abs_difference == 0.0
            assert file.latent_weights.problems == ()
    groups = {parameter_group(n, model) for n, _ in model.named_parameters()}
    assert groups >= {"weights", "bn_affine", "head", "activation_scale"}
    assert parameter_group("head.weight", model) == "head"


def test_checkpoint_names_the_file_and_never_brings_it(toy: Toy) -> None:
    model = made(TWO_CONVOLUTIONS)
    calibrate(model, [toy(6).images() / 255.0] * calibration_batches(model))
    data = dumps(model.eval(), Origin(class_names=("a", "b", "c"), size=8, split=""))
    assert str(model.recipe.sha256).encode() in data and b"MaxPool2d" not in data
    again, _ = loads(data, "mine", model.recipe, model.factory)
    assert torch.equal(again(toy(3).images() / 255.0), model(toy(3).images() / 255.0))
    with pytest.raises(ConfigError, match=r"made by the file mine\.py, which is not at hand"):
        loads(data, "mine", model.recipe)
    other = model.recipe.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="another model: sha256 is"):
        loads(data, "mine", other, model.factory)


def test_exactly_the_bytes_that_were_checked_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the file has become since, nor bytecode beside it, nor a neighbour of that name."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("raise SystemExit('the file was read again')", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    made(TWO_CONVOLUTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]  # no bytecode is left either
    assert "mine" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(layers, shape", "SyntaxError: "),
        ("import no_such_package", "ModuleNotFoundError: "),
        ("1 / 0", "ZeroDivisionError: "),
        ("def make(): ...", "AttributeError: .*'build'"),
        ("build = 3", "build is not a function"),
        ("def build(): ...", "TypeError: "),
        ("\x00", "SyntaxError: |ValueError: "),
        (body("return 3"), "build returned int, allowed is a torch.nn.Module"),
        (body("return None"), "build returned NoneType"),
        (body("return nn.Flatten()"), r"the body returned \(1, 1024\), allowed are features"),
        (body("return layers.conv_bn(7, 8, 3)"), "RuntimeError: "),
        (body("return nn.LSTM(32, 2)"), "ValueError: "),
    ],
)
def test_file_that_makes_no_network_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^mine\.py: .*({message})"):
        made(text)


def test_layer_that_cannot_be_exported_is_named_with_the_line_that_makes_it() -> None:
    lines = "norm = nn.GroupNorm(2, 8)\n    return nn.Sequential(layers.conv_bn(1, 8, 3, edge=True), norm)"
    with pytest.raises(
        ConfigError, match=r"^mine\.py, line 5: 1: GroupNorm cannot be exported; allowed are "
    ):
        made(body(lines))


def test_the_pages_network_of_plain_layers_is_one(toy: Toy) -> None:
    model = made(PLAIN)
    calibrate(model, [toy(6).images() / 255.0] * calibration_batches(model))
    assert model(toy(3).images() / 255.0).shape == (3, 3)
    assert parameter_group("head.weight", model) == "head"


def requantized(source: str, toy: Toy) -> Classifier:
    """The network of a model file, calibrated and re-quantized, without training."""
    model = made(source)
    calibrate(model, [toy(6).images() / 255.0] * calibration_batches(model))
    requantize(model, toy(12), batch=6, seed=0, progress=Progress())
    return model


@pytest.mark.filterwarnings("default")
def test_averages_between_quantized_layers_are_exact_in_every_format(toy: Toy) -> None:
    lines = "a, b = layers.conv_bn(1, 8, 3, edge=True), layers.conv_bn(8, 8, 3)\n    "
    lines += "pools = nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2)\n    "
    lines += "return nn.Sequential(a, layers.relu(), pools[0], layers.signed(), b, pools[1], layers.relu())"
    model = requantized(body(lines), toy)
    assert {f.parity.max_abs_difference for f in exported(model, toy, *Format)} == {0.0}


@pytest.mark.filterwarnings("default")
def test_named_layers_are_followed_as_numbered_ones(toy: Toy) -> None:
    lines = "conv, norm = layers.conv_bn(1, 8, 3, edge=True)\n    named = nn.Sequential()\n    "
    lines += "[named.add_module(n, m) for n, m in (('conv', conv), ('norm', norm), ('relu', layers.relu()))]"
    lines += "\n    return named"
    model = requantized(body(lines), toy)
    assert {f.parity.max_abs_difference for f in exported(model, toy)} == {0.0}


PARTS = "s = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 3))"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("s[0].register_forward_hook(lambda m, i, o: o * 0)", "0 has hooks or parametrizations"),
        ("s.register_forward_pre_hook(lambda m, i: None)", "the network has hooks"),
        ("nn.utils.parametrizations.weight_norm(s[0])", "0 has hooks or parametrizations"),
        ("nn.utils.spectral_norm(s[3])", "3 has hooks or parametrizations"),
        ("s[0].weight.data[0] = float('nan')", r"0\.weight holds a value that is not finite"),
        ("s[0].to('meta')", r"0\.weight lies on the device meta"),
        (
            "s.insert(1, nn.BatchNorm2d(8)); s[1].running_var.fill_(-1.0)",
            r"1\.running_var .*variance below zero",
        ),
    ],
)
def test_what_a_file_could_not_hold_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(body(f"{PARTS}; {change}; return s"))
