"""Brevitas' layers with a faster forward pass: where its result would not be right."""

from typing import Any

import pytest
import torch

from qmu_edge.models.calibration import initialise_weight_steps
from qmu_edge.models.layers import Layers
from qmu_edge.recipe import ModelRecipe


@pytest.mark.parametrize(
    ("weight_bits", "quantizer"), [(4, "learned_step"), (4, "statistics"), ("float", "learned_step")]
)
@pytest.mark.parametrize(("side", "stride", "groups"), [(1, 2, 1), (1, 2, 16), (2, 3, 1), (1, 3, 16)])
def test_a_stride_beyond_the_image_has_the_gradient_of_float32(
    side: int, stride: int, groups: int, weight_bits: Any, quantizer: Any
) -> None:
    """In bfloat16, the gradient that oneDNN computes for such a weight holds what the memory held before."""
    torch.manual_seed(0)
    recipe = ModelRecipe(edge_bits=weight_bits, quantizer=quantizer)
    layer: Any = Layers(recipe).conv(16, 16, 3, stride=stride, groups=groups, edge=True)
    initialise_weight_steps(layer)
    x = torch.rand(64, 16, side, side).to(memory_format=torch.channels_last)
    wanted = _gradient(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(4):
            dirt = [torch.full((layer.weight.numel() * m,), 1e30) for m in (1, 2, 4, 8)]
            del dirt
            assert (_gradient(layer, x) - wanted).abs().max() < 0.05 * wanted.abs().max()


def _gradient(layer: Any, x: torch.Tensor) -> torch.Tensor:
    made = layer(x.bfloat16() if torch.is_autocast_enabled("cpu") else x)
    torch.manual_seed(1)
    found = torch.autograd.grad(made.float(), layer.weight, torch.randn(made.shape))
    return found[0]
