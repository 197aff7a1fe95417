"""PACT: activations are clipped at a learned level alpha, which gets gradients only from values above it.

`ClippingLevel` stores alpha as the step alpha / largest code, so that calibration, re-quantization and export
of learned steps work for it too. An L2 penalty lowers alpha; the gradients of clipped values may raise it.

Source: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
    arXiv:1805.06085.
Differs: the initial alpha comes from calibration, not from a constant. Signed tensors (network input,
    branches of an addition) are clipped at both ends of their codes. Weights are those of `learned_step`:
    DoReFa's have no code for zero, and a grid without zero cannot be exported. The penalty is the weight
    decay of the recipe, and the learning rate of alpha that of all quantizer parameters.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.models.kernels.fused import FusedIntQuant, Grid, mark


def clipping_slopes(
    scaled: Float[Tensor, "*x"], low: float, high: float
) -> tuple[Bool[Tensor, "*x"], Float[Tensor, "*x"]]:
    """PACT's derivatives of a value that is rounded and clipped to `low..high` steps: by value and by step.

    The first is 1 (True) inside the clipping range. The second is 0 inside and the clipped code outside: the
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
        """`x` rounded to the grid, as `dtype`."""
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
    """Brevitas' `IntQuant` with PACT's gradients in training."""

    def while_training(self, x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
        """`x` on the grid as `dtype`."""
        quantized: Tensor = ClippedQuantize.apply(x, step, grid, dtype)  # type: ignore[no-untyped-call]
        return mark(quantized, step, grid)

    def on_learned_step(self, x: Tensor, scaling: Any, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The same for a `LearnedStep`, whose value is computed first."""
        return self.while_training(x, scaling(x), grid, dtype)
