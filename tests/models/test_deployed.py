"""Modules of the deploy form, number by number."""

import pytest
import torch
from torch import nn

from qmu_edge.models.deployed import Affine, BreakTies, Grid, Table
from qmu_edge.models.layers import Layers
from qmu_edge.recipe import ModelRecipe


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_a_table_gives_what_function_and_quantizer_give(bits: int, signed: bool) -> None:
    quantizer = Layers(ModelRecipe()).grid(4, signed=True).eval()
    with torch.no_grad():
        quantizer.get_parameter(
            "act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.step"
        ).fill_(0.25)
    grid = Grid(0.125, bits, -(1 << bits - 1) if signed else 0)
    table = Table(grid, nn.Hardswish(), quantizer)
    x = torch.arange(grid.low, grid.low + 2**bits).view(1, -1, 1, 1) * 0.125
    with torch.no_grad():
        assert torch.equal(table(x), quantizer(nn.Hardswish()(x)))
    table.smooth = True
    assert torch.equal(table(x), nn.Hardswish()(x))


def test_an_affine_shifts_first() -> None:
    affine = Affine(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.5]), rank=4)
    assert affine(torch.ones(1, 2, 1, 1)).flatten().tolist() == [20.0, 1.5]


def test_ties_are_broken_downwards() -> None:
    assert BreakTies()(torch.tensor([[0.5, 100.5]])).round().tolist() == [[0.0, 100.0]]
