"""PACT: activations are clipped at a learned level, above which alone the level has a gradient.

The level alpha is kept as a step, alpha / largest code, by `ClippingLevel`; everything that calibrates,
re-quantizes and exports learned steps serves it too. An L2 penalty pulls it down, values above it push it.

Source: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
    arXiv:1805.06085.
Differs: alpha starts where calibration puts it, not at a constant. Signed tensors (network input, branches
    of an addition) are clipped at both ends of their codes. Weights are those of `learned_step`: DoReFa's
    have no code for zero, and a grid without zero cannot be exported. The penalty is the weight decay of
    the recipe, its learning rate that of all quantizer parameters.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.models.kernels.fused import FusedIntQuant, Grid, mark


def clipping_slopes(
    scaled: Float[Tensor, "*x"], low: float, high: float
) -> tuple[Bool[Tensor, "*x"], Float[Tensor, "*x"]]:
    """PACT's derivatives of a value that is rounded to `low..high` steps: by the value, and by the step.

    The first is whether it lies between the ends. The second is 0 between them and the code outside: the
    largest code times the derivative by alpha, which is 1 from alpha upwards.

    >>> clipping_slopes(torch.tensor([-1.0, 0.4, 2.6, 3.0, 9.0]), 0.0, 3.0)
    (tensor([False,  True,  True, False, False]), tensor([0., 0., 0., 3., 3.]))
    """
    inside = (scaled >= low) & (scaled < high)
    return inside, scaled.clamp(low, high).masked_fill(inside, 0.0)


class ClippedQuantize(torch.autograd.Function):
    """Round to a clipped grid, with PACT's gradients for value and step."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*x"], step: Float[Tensor, ""], grid: Grid, dtype: torch.dtype
    ) -> Float[Tensor, "*x"]:
        """`x` on the grid, as `dtype`."""
        scaled = x.to(step.dtype) / step
        inside, slope = clipping_slopes(scaled, grid.low, grid.high)
        ctx.save_for_backward(inside & (scaled > grid.floor), slope)
        ctx.dtypes = x.dtype, step.dtype
        return (scaled.round_().clamp_(grid.low, grid.high) * step).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*x"]) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of value and step."""
        inside, slope = ctx.saved_tensors
        of_x, of_step = ctx.dtypes
        return (grad * inside).to(of_x), (grad.to(of_step) * slope).sum(), None, None


class ClippedIntQuant(FusedIntQuant):
    """Brevitas' `IntQuant` with PACT's gradients while training."""

    def while_training(self, x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
        """`x` on the grid as `dtype`."""
        quantized: Tensor = ClippedQuantize.apply(x, step, grid, dtype)  # type: ignore[no-untyped-call]
        return mark(quantized, step, grid)

    def on_learned_step(self, x: Tensor, scaling: Any, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The same, the value of the step before it."""
        return self.while_training(x, scaling(x), grid, dtype)
