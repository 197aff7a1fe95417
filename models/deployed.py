"""Modules that only a deploy form has."""

from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.layers import Single
from qmu_edge.models.tokens import Softmax

EXACT_BITS: Final = 24  # of the mantissa of float32
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


class SharesOfCodes(Single):
    """Softmax of a quantized tensor, along its last axis: one table, sums without rounding, one division.

    The exponential of the distance to the largest code is a table, whose entries are multiples of so small a
    power of two that every sum of them is exact, in any order.

    Attributes:
        grid: Of the input.
        softmax: What is computed.
        values: The exponential at each distance below the largest code, the greatest distance first.
        smooth: Whether `softmax` itself is computed.
    """

    values: Tensor

    def __init__(self, grid: Grid, softmax: Softmax, count: int) -> None:
        """Tabulate for `count` numbers along the axis."""
        super().__init__()
        self.grid, self.softmax, self.smooth = grid, softmax, False
        unit = 2.0 ** -(EXACT_BITS - (count - 1).bit_length())
        distances = torch.arange(1 - 2**grid.bits, 1, dtype=torch.float64) * grid.step * softmax.scale
        self.register_buffer("values", ((distances.exp() / unit).round() * unit).float())

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Shares that add up to 1."""
        if self.smooth:
            y: Tensor = self.softmax(x)
            return y
        below = ((x - x.amax(-1, keepdim=True)) / self.grid.step).round().long()
        found = self.values[below + (len(self.values) - 1)]
        return found / found.sum(-1, keepdim=True)


class NormOfCodes(Single):
    """Layer-norm of a quantized tensor: sums of codes and of their squares are exact, in any order.

    All that is rounded is rounded once for each number, so that whoever computes by IEEE 754 gets the same.

    Attributes:
        inverse: 1 / the length of the axis.
        eps: What is added to the variance.
        gain, bias: For each number.
    """

    inverse: Tensor
    eps: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, norm: nn.LayerNorm) -> None:
        """Store the constants of `norm` in float32."""
        super().__init__()
        bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        self.register_buffer("inverse", torch.tensor(1.0 / norm.normalized_shape[0]))
        self.register_buffer("eps", torch.tensor(norm.eps))
        self.register_buffer("gain", norm.weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Float[Tensor, "n ... d"]) -> Float[Tensor, "n ... d"]:
        """Normalised."""
        mean = x.sum(-1, keepdim=True) * self.inverse
        variance = (x * x).sum(-1, keepdim=True) * self.inverse - mean * mean
        deviation = (variance.relu() + self.eps).sqrt()
        return (x - mean) / deviation * self.gain + self.bias
