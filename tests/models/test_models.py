"""Every network in every quantizer preset: integer codes, calibration, state."""

from itertools import product
from typing import Any

import pytest
import torch

from qmu_edge.models.build import ARCHITECTURES, build
from qmu_edge.models.calibration import (
    calibrate,
    calibration_batches,
    uncalibrated,
    weight_layers,
)
from qmu_edge.models.layers import Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe

# What must be known of a new architecture or preset before its tests can pass.
LAYERS = {"resnet18": 21, "resnet50": 54, "mobilenet_v2": 53}
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
            always &= row[0] == "mobilenet_v2" and row[1:3] in (
                ("W4A4", "learned_step"),
                ("W2AF", "statistics"),
            )
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
