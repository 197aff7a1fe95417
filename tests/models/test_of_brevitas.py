"""Networks of Brevitas' own layers: what its quantizers say is what ours do, and what its file answers."""

import copy
from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from brevitas.quant import (
    Int8AccumulatorAwareWeightQuant,
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from torch import nn

from qmu_edge.errors import ConfigError
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.trace import trace
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches, require_calibrated, uncalibrated
from qmu_edge.models.deploy import deploy, require_equivalent, settle
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.of_brevitas import is_of_brevitas, loaded, quantizer_problem
from qmu_edge.models.own import OwnNetwork, take_state
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.checkpoint import Origin, dumps, loads
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import train_mode
from tests.elsewhere.brevitas_networks import VARIANTS, Small, answers, of
from tests.elsewhere.making import brevitas_file, trained

pytestmark = pytest.mark.filterwarnings("default")  # torch and brevitas warn while they trace
Toy = Callable[..., Samples]
SHAPE = Shape(channels=1, classes=3, size=8)
FREE = ModelRecipe(architecture="file", path="mine.py", activation_steps="free")


def taken(theirs: nn.Module, factory: Any, recipe: ModelRecipe = FREE) -> tuple[Any, nn.Module]:
    """A network that was built for a checkpoint and has taken it, and Brevitas' own."""
    model: Any = build(recipe, SHAPE, 7, factory)
    assert isinstance(model, OwnNetwork) and model.of_brevitas
    brought = take_state(model, theirs.state_dict(), {}, "qat.pt")
    require_calibrated(model)
    return model.eval(), brought


def made(variant: str, toy: Toy, steps: int = 40) -> Any:
    """A network of a variant, trained a little."""
    torch.manual_seed(0)
    return learned(of(variant)(Layers(FREE), SHAPE), toy, steps)


def learned(network: nn.Module, toy: Toy, steps: int) -> nn.Module:
    """The same of any network."""
    samples = toy(240)
    return trained(network, samples.images().numpy(), samples.labels.numpy(), steps=steps)


def made_anew(variant: str) -> Any:
    """A network as its file makes it."""
    return of(variant)(Layers(FREE), SHAPE)


FAST = ("shared",)


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[] if v in FAST else pytest.mark.slow) for v in VARIANTS]
)
def test_the_first_export_answers_what_brevitas_own_file_does(variant: str, toy: Toy) -> None:
    few = variant in FAST
    theirs = made(variant, toy, steps=200 if variant == "2 bits" else 40)
    model, brought = taken(theirs, of(variant))
    samples = toy(200 if few else 1000, seed=5)
    images = samples.images().numpy()
    before = predict(brought, samples)
    assert torch.equal(predict(model, samples), before)  # Brevitas itself, to the bit
    settle(model, 8, keep_scales=True)
    deployed = deploy(model, 8)
    require_equivalent(model, deployed, samples.images()[:2] / 255.0)
    file = answers(brevitas_file(copy.deepcopy(theirs), images), images)
    ours = answers(to_integer(trace(deployed, 8)).SerializeToString(), images)
    assert (ours.argmax(1) == file.argmax(1)).all()
    # Biases are integers in ours, and become one code of the last grid at most on the way.
    assert np.abs(ours - file).max() < np.ptp(file) / (3 if variant == "2 bits" else 10)
    assert (file.argmax(1) == samples.labels.numpy()).mean() > 0.9  # it has learned something


def test_codes_steps_and_biases_are_those_of_brevitas(toy: Toy) -> None:
    theirs = made("biases of 32 bits", toy, steps=2)
    model, _ = taken(theirs, of("biases of 32 bits"))
    for name in ("stem", "conv", "down"):
        layer, other = model.body.get_submodule(name), theirs.get_submodule(name)
        assert torch.equal(layer.weight_quant.scale().reshape(-1)[0], other.weight_quant.scale())
        assert torch.equal(layer.quant_weight().int(), other.quant_weight().int())
        assert torch.equal(layer.weight, other.weight)  # training goes on from the same floats
    grid = theirs.image.act_quant.scale() * theirs.stem.weight_quant.scale()
    codes = model.body.get_submodule("stem").bias / grid
    assert torch.allclose(codes, codes.round(), atol=1e-3) and codes.any()
    assert not torch.equal(model.body.get_submodule("stem").bias, theirs.stem.bias)
    assert isinstance(model.input, nn.Identity)  # the file has a quantizer of its own


def test_it_is_trained_on_stored_and_read_again(toy: Toy) -> None:
    model, _ = taken(made("shared", toy, steps=2), of("shared"))
    images = toy(12).images() / 255.0
    data = dumps(model, Origin(class_names=("a", "b", "c"), size=8, split=""))
    again, _ = loads(data, "it", FREE, of("shared"))
    assert torch.equal(again(images), model(images))
    train_mode(model, statistics=False)
    loss = nn.functional.cross_entropy(model(images), toy(12).labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > len(gradients) // 2


def test_from_scratch_steps_are_learned_and_weights_those_of_the_file(toy: Toy) -> None:
    model: Any = build(FREE, SHAPE, 0, of("constants"))
    assert uncalibrated(model) == []  # constants are known
    model = build(FREE, SHAPE, 0, of("statistics"))
    assert len(uncalibrated(model)) == 7
    torch.manual_seed(0)
    assert torch.equal(model.head.weight, made_anew("statistics").fc.weight)
    calibrate(model, [toy(6).images() / 255.0] * calibration_batches(model))
    assert uncalibrated(model) == [] and model(toy(6).images() / 255.0).isfinite().all()


class Twice(nn.Module):
    """A layer and a grid that are called twice, with a step that is a parameter."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build it."""
        super().__init__()
        given: Any = {"weight_scaling_impl_type": "parameter_from_stats", "weight_bit_width": 3}
        self.stem = qnn.QuantConv2d(channels, 8, 3, padding=1, **given)
        self.conv = qnn.QuantConv2d(8, 8, 3, padding=1, **given)
        self.relu, self.fc = qnn.QuantReLU(bit_width=5), qnn.QuantLinear(8, classes, weight_quant=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.relu(self.stem(x))
        for _ in range(2):
            x = self.relu(self.conv(x))
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def test_what_is_called_twice_and_what_stays_float(toy: Toy) -> None:
    def factory(layers: Layers, shape: Shape) -> nn.Module:
        return Twice(shape.channels, shape.classes)

    torch.manual_seed(0)
    theirs = learned(Twice(1, 3), toy, 3)
    model, brought = taken(theirs, factory)
    assert torch.equal(predict(model, toy(60)), predict(brought, toy(60)))
    assert not model.head.weight_quant.is_quant_enabled


CONV: Any = {"in_channels": 1, "out_channels": 4, "kernel_size": 3}
REFUSED: dict[str, tuple[Any, str]] = {
    "two codes": (
        qnn.QuantConv2d(**CONV, weight_quant=SignedBinaryWeightPerTensorConst),
        "of its weight that cannot be taken: ClampedBinaryQuant",
    ),
    "known sums": (
        qnn.QuantConv2d(**CONV, weight_quant=Int8AccumulatorAwareWeightQuant),
        "of its weight that cannot be taken: DecoupledRescalingIntQuantWithInput",
    ),
    "a zero point": (
        qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat),
        "of its act that cannot be taken: it rounds by a zero point",
    ),
    "rounded down": (
        qnn.QuantIdentity(float_to_int_impl_type="floor"), "or not to the nearest code"
    ),
    "bits that are learned": (
        qnn.QuantReLU(bit_width_impl_type="parameter", bit_width=4), "a number of bits that is learned"
    ),
    "many bits": (qnn.QuantIdentity(bit_width=12), "12 bits"),
    "steps of channels": (
        qnn.QuantReLU(
            scaling_per_output_channel=True, per_channel_broadcastable_shape=(1, 4, 1, 1),
            scaling_stats_permute_dims=(1, 0, 2, 3),
        ),
        "one step for each channel; allowed is one for all",
    ),
    "before a layer": (
        qnn.QuantConv2d(**CONV, input_quant=Int8ActPerTensorFloat, input_bit_width=1), "of its input"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_quantizer_that_cannot_be_taken_is_named(name: str) -> None:
    layer, message = REFUSED[name]
    assert message in quantizer_problem(layer)


def test_others_are_none_of_that() -> None:
    assert not quantizer_problem(qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat))
    assert not quantizer_problem(qnn.QuantConv2d(**CONV, weight_quant=Int8WeightPerTensorFloat))
    assert not is_of_brevitas(build(ModelRecipe(width=0.125), SHAPE, 0)) and not quantizer_problem(nn.ReLU())


def test_tensors_that_are_left_over_or_have_another_form_are_named() -> None:
    network = Small(1, 3, {}, {})
    network(torch.rand(6, 1, 8, 8))  # in training: from here on its steps are a part of its state
    state = network.state_dict()
    given = {name: tensor for name, tensor in state.items() if name != "conv.weight"}
    with pytest.raises(ConfigError, match=r"^it: 1 tensors of the network are not in it: conv\.weight; "):
        loaded(network, given, {}, "it")
    with pytest.raises(
        ConfigError, match=r"^it: 1 shapes differ: fc\.weight \(4, 8\) for fc\.weight \(3, 8\)"
    ):
        loaded(network, state | {"fc.weight": torch.ones(4, 8)}, {}, "it")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    assert loaded(network, wrapped, {}, "it") is network
    assert loaded(
        network, {f"net.{n}".replace("fc", "linear"): t for n, t in state.items()}, {"fc": "linear"}, "it"
    )
    step = "relu.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value"
    with pytest.raises(
        ConfigError, match=r"^it: 1 shapes differ: relu\.act_quant.*\(8,\) for relu\.act_quant"
    ):
        loaded(network, state | {step: torch.ones(8)}, {}, "it")


def test_names_that_differ_are_paired(toy: Toy) -> None:
    theirs = learned(Small(1, 3, {}, {}), toy, 1)
    state = {name.replace("fc.", "head.0."): tensor for name, tensor in theirs.state_dict().items()}
    again = loaded(Small(1, 3, {}, {}), state, {"fc": "head.0"}, "it")
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), theirs(torch.ones(1, 1, 8, 8)))


def test_steps_that_the_recipe_would_change_are_refused(toy: Toy) -> None:
    theirs = made("statistics", toy, steps=1)
    recipe = FREE.model_copy(update={"activation_steps": "power_of_two"})
    message = r"^qat\.pt: body\.\w+: its step .* is no power of two, .* allowed with \"free\""
    with pytest.raises(ConfigError, match=message):
        taken(theirs, of("statistics"), recipe)
    model, brought = taken(made("powers of two", toy, steps=1), of("powers of two"))
    assert torch.equal(predict(model, toy(6)), predict(brought, toy(6)))


def test_a_step_that_was_never_learned_is_named() -> None:
    with pytest.raises(ConfigError, match=r"are not in it: branch\.act_quant"):
        taken(of("statistics")(Layers(FREE), SHAPE), of("statistics"))


def test_steps_that_follow_the_weights_need_other_quantizers_than_the_recipes() -> None:
    with pytest.raises(ConfigError, match="allowed for layers of Brevitas is"):
        build(FREE.model_copy(update={"quantizer": "statistics"}), SHAPE, 0, of("statistics"))


def test_a_body_that_gives_features_has_no_classifier_in_a_checkpoint() -> None:
    def factory(layers: Layers, shape: Shape) -> nn.Module:
        return nn.Sequential(qnn.QuantIdentity(), qnn.QuantConv2d(1, 8, 3), qnn.QuantReLU())

    model: Any = build(FREE, SHAPE, 0, factory)
    with pytest.raises(ConfigError, match="gives features and no logits"):
        take_state(model, factory(Layers(FREE), SHAPE).state_dict(), {}, "it")


def test_codes_that_are_not_the_nearest_ones_are_refused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = made("statistics", toy, steps=1)
    quant_weight = qnn.QuantConv2d.quant_weight

    def other(layer: Any, *args: Any) -> Any:
        found = quant_weight(layer, *args)
        return found if "quant_layers" in type(layer).__module__ else found.set(value=found.value * 0)

    monkeypatch.setattr(qnn.QuantConv2d, "quant_weight", other)
    with pytest.raises(ConfigError, match=r"stem: .* of its codes are not the nearest ones"):
        taken(copy.deepcopy(theirs), of("statistics"))
