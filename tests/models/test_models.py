"""Every network in every quantizer preset: integer codes, calibration, state, parameter groups."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.build import ARCHITECTURES, build
from qmu_edge.models.calibration import (
    calibrate,
    calibration_batches,
    clamp_through,
    parameter_group,
    require_calibrated,
    uncalibrated,
    weight_layers,
)
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.loop import train_mode

# What must be known of a new architecture or preset before its tests can pass.
LAYERS = {"resnet18": 21, "mobilenet_v2": 53}
NAN_UNTIL_CALIBRATED = {"learned_step": True, "statistics": False, "pact": True, "dsq": True}
WEIGHT_SCALES = {
    "learned_step": 1,
    "statistics": 0,
    "pact": 1,
    "dsq": 2,
}  # parameters of a weight's quantizer
BITS: dict[str, dict[str, Any]] = {
    "W8A8": {"weight_bits": 8, "activation_bits": 8},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A4": {"weight_bits": 2, "activation_bits": 4},
    "W2AF": {"weight_bits": 2, "activation_bits": "float"},
}
SHAPE = Shape(channels=1, classes=3)


def _rows() -> list[Any]:
    """All combinations; ResNet18 runs in eight of them always, the slow MobileNetV2 in two."""
    rows = product(ARCHITECTURES, BITS, PRESETS, (("cifar", 8), ("imagenet", 32)), (8, "float"))
    found = []
    for n, row in enumerate(rows):
        always = n % 4 == (n // 4 + n // 16) % 4
        if row[0] != "resnet18":
            always &= row[1:3] in (("W4A4", "learned_step"), ("W2AF", "statistics"))
        found.append(pytest.param(*row, marks=[] if always else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("architecture", "bits", "preset", "stem", "edge"), _rows())
def test_network_calibrates_and_computes_integer_codes(
    architecture: str, bits: str, preset: str, stem: tuple[str, int], edge: int | str
) -> None:
    recipe = ModelRecipe.model_validate(
        {"architecture": architecture, "stem": stem[0], "width": 0.125, "edge_bits": edge,
         "quantizer": preset, **BITS[bits]}
    )  # fmt: skip
    model = build(recipe, SHAPE, seed=0).eval()
    images = torch.rand(3, 1, stem[1], stem[1], generator=torch.Generator().manual_seed(0))
    quantized = recipe.activation_bits != "float"

    assert bool(uncalibrated(model)) == quantized
    assert bool(model(images).isnan().all()) == (quantized and NAN_UNTIL_CALIBRATED[preset])
    calibrate(model, [images] * calibration_batches(model))
    assert uncalibrated(model) == []

    logits = model(images)
    assert logits.shape == (3, 3)
    assert logits.isfinite().all()

    layers = [layer for _, layer in weight_layers(model)]
    integer = [layer for layer in layers if layer.weight_quant.is_quant_enabled]
    assert len(layers) == LAYERS[architecture]
    assert len(layers) - len(integer) == (2 if edge == "float" else 0)
    smallest: dict[int, int] = {}
    for number, layer in enumerate(integer):
        width = recipe.edge_bits if layer in (layers[0], layers[-1]) else recipe.weight_bits
        assert isinstance(width, int), number
        quant = layer.quant_weight()
        codes = quant.int()
        low, high = (-2, 1) if width == 2 else (1 - 2 ** (width - 1), 2 ** (width - 1) - 1)
        assert low <= codes.min() <= codes.max() <= high
        smallest[width] = min(smallest.get(width, 0), int(codes.min()))
        assert all(len(channel.unique()) <= 2**width for channel in codes)
        assert torch.equal(codes * quant.scale, quant.value)

    if recipe.weight_bits == 2:
        assert smallest[2] == -2  # all four codes, not three

    other = build(recipe, SHAPE, seed=1).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    assert uncalibrated(other) == []
    state = other.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(other(images), logits)


def test_table_has_a_row_for_every_architecture_and_preset() -> None:
    assert set(LAYERS) == set(ARCHITECTURES)
    assert set(NAN_UNTIL_CALIBRATED) == set(WEIGHT_SCALES) == set(PRESETS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_build_depends_on_its_seed_alone(architecture: str) -> None:
    recipe = ModelRecipe.model_validate({"architecture": architecture, "width": 0.125})
    before = torch.get_rng_state()
    first = build(recipe, SHAPE, seed=0).state_dict()
    torch.rand(1)
    again = build(recipe, SHAPE, seed=0).state_dict()
    other = build(recipe, SHAPE, seed=1).state_dict()
    torch.set_rng_state(before)
    build(recipe, SHAPE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v.nan_to_num(), again[k].nan_to_num()) for k, v in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_its_group(
    network: Callable[..., Classifier], architecture: str, preset: str
) -> None:
    model = network(architecture=architecture, quantizer=preset)
    found = Counter(parameter_group(name, model) for name, _ in model.named_parameters())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    activations = sum("act_quant" in name for name, _ in model.named_parameters())
    assert activations > 0
    assert found == {
        "weights": LAYERS[architecture] - 1,
        "head": 2,
        "bn_affine": 2 * norms,
        "activation_scale": activations,
        **({"weight_scale": WEIGHT_SCALES[preset] * LAYERS[architecture]} if WEIGHT_SCALES[preset] else {}),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_calibration_moves_neither_weights_nor_mode(network: Callable[..., Classifier], preset: str) -> None:
    model = network(quantizer=preset)
    before = {name: p.clone() for name, p in model.named_parameters() if "act_quant" not in name}
    calibrate(model, [torch.rand(4, 1, 8, 8)])
    assert not model.training
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())


@pytest.mark.parametrize("preset", PRESETS)
def test_incomplete_grids_are_refused_by_name(preset: str) -> None:
    recipe = ModelRecipe.model_validate({"width": 0.125, "quantizer": preset})
    model = build(recipe, SHAPE, seed=0)
    with pytest.raises(UnlearnError, match=r"30 quantizers, the first input\.act_quant"):
        require_calibrated(model)
    needed = calibration_batches(model)
    calibrate(model, [torch.rand(4, 1, 8, 8)] * (needed - 1))
    assert bool(uncalibrated(model)) == (preset == "statistics")  # one batch too few of the statistics


def test_clamp_through_lets_saturated_weights_move_alone(
    network: Callable[..., Classifier],
) -> None:
    model = network(weight_bits=8)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # no filter is dead
    layers = [layer for _, layer in weight_layers(model)]
    with torch.no_grad():
        for layer in layers:  # beyond the range on both sides
            layer.weight[0].copy_(layer.weight[0].sign() * 9.0 * layer.weight.abs().max())

    def gradients() -> list[Tensor]:
        train_mode(model, statistics=False)
        return list(torch.autograd.grad(model(images).square().sum(), list(model.parameters())))

    names = [name for name, _ in model.named_parameters()]
    clipped, values = dict(zip(names, gradients(), strict=True)), model(images)
    with pytest.raises(KeyError), clamp_through(model):
        assert torch.equal(model(images), values)
        through = dict(zip(names, gradients(), strict=True))
        raise KeyError
    for name, gradient in through.items():
        if name.endswith("weight") and gradient.dim() > 1:
            assert not clipped[name][0].any()
            assert gradient[0].any()
            assert torch.equal(gradient[1:], clipped[name][1:])
        else:
            assert torch.equal(gradient, clipped[name])
    assert all(map(torch.equal, gradients(), clipped.values()))
