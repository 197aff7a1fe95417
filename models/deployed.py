"""Modules that only a deploy form has."""

from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.layers import Single

BELOW_ONE: Final = 1 - 2.0**-12  # of codes below 2048, no multiple of a power of two becomes half a code


class Grid(NamedTuple):
    """Step and bits of a quantized tensor, and its smallest code."""

    step: float
    bits: int
    low: int


class Affine(Single):
    """(x + bias) * gain, per channel."""

    bias: Tensor
    gain: Tensor

    def __init__(self, bias: Float[Tensor, " c"], gain: Float[Tensor, " c"], rank: int) -> None:
        """Store both in float32, for inputs of `rank` dimensions."""
        super().__init__()
        shape = (1, -1, *(1,) * (rank - 2))
        self.register_buffer("bias", bias.float().view(shape))
        self.register_buffer("gain", gain.float().view(shape))

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """(x + bias) * gain."""
        return (x + self.bias) * self.gain


class BreakTies(Single):
    """x * (1 - 2^-12): of a sum or a mean of codes, nothing is left in the middle between two codes.

    Attributes:
        factor: What it multiplies by.
    """

    factor = BELOW_ONE

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """A little smaller."""
        return x * self.factor


class Table(Single):
    """A function of a quantized tensor, looked up by code: the result is on the next grid already.

    Attributes:
        grid: Of the input.
        function: What was tabulated.
        values: Of each code, from the smallest one.
        smooth: Whether the function itself is computed.
    """

    values: Tensor

    def __init__(self, grid: Grid, function: nn.Module, quantizer: Any) -> None:
        """Tabulate a function of a grid, as rounded by the quantizer behind it."""
        super().__init__()
        self.grid, self.function, self.smooth = grid, function, False
        device = next(quantizer.parameters()).device
        codes = torch.arange(grid.low, grid.low + 2**grid.bits, device=device)
        with torch.no_grad():
            self.register_buffer("values", quantizer(function(codes * grid.step)))

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The value of every code of `x`."""
        if self.smooth:
            y: Tensor = self.function(x)
            return y
        return self.values[(x / self.grid.step).round().long() - self.grid.low]
