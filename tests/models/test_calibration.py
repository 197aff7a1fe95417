"""Grids, parameter groups and saturated weights: what every quantizer preset has in common."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.build import build
from qmu_edge.models.calibration import (
    calibrate,
    calibration_batches,
    clamp_through,
    parameter_group,
    require_calibrated,
    uncalibrated,
    weight_layers,
)
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.loop import train_mode
from tests.models.test_models import LAYERS, SHAPE, WEIGHT_SCALES
from tests.networks import EACH


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", EACH)
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


def test_a_batch_norm_of_rows_is_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    found = [parameter_group(name, model) for name in model.state_dict()]
    assert found == ["weights", "bias", "bn_affine", "bn_affine", "bn_stats", "bn_stats", "bn_stats"]


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
