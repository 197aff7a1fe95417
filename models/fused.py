"""Brevitas' integer quantization in one pass with its own backward, for training.

The stock path is a chain of elementwise operations, each with its own saved tensors; it costs more than the
convolution beside it. This one computes the same forward values and the same gradients. Evaluation and
export take the stock path, so what ships never depends on this file.
"""

from typing import Any, ClassVar

import torch
from brevitas.core.quant import IntQuant
from jaxtyping import Float
from torch import Tensor


class FakeQuantize(torch.autograd.Function):
    """Round to a clipped grid, with LSQ's gradients for value and step.

    Value: 1 inside the clipping range, 0 outside. Step: code - x/step inside, the clipped code outside.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*x"], step: Float[Tensor, "*s"], low: float, high: float
    ) -> Float[Tensor, "*x"]:
        """Value of `x` on the grid `step * {low..high}`; round half to even, as everywhere."""
        scaled = x / step
        rounded = scaled.round()
        code = rounded.clamp(low, high)
        inside = code == rounded
        ctx.save_for_backward(torch.where(inside, code - scaled, code), inside)
        ctx.step_shape, ctx.step_dtype = step.shape, step.dtype
        return code * step

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*x"]) -> tuple[Tensor, Tensor | None, None, None]:
        """Gradients of value and step."""
        slope, inside = ctx.saved_tensors
        step_grad = None
        if ctx.needs_input_grad[1]:
            # Half-precision sums over a whole activation tensor would lose most of their terms.
            each = grad * slope
            total = (
                each.sum(dtype=ctx.step_dtype) if ctx.step_shape == () else each.sum_to_size(ctx.step_shape)
            )
            step_grad = total.to(ctx.step_dtype)
        return grad * inside, step_grad, None, None


class FusedIntQuant(IntQuant):  # type: ignore[misc]
    """Brevitas' `IntQuant` that takes `FakeQuantize`, or another `function`, while training."""

    function: ClassVar[type[FakeQuantize]] = FakeQuantize
    _bounds: tuple[float, float] | None = None

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Quantize and dequantize `x`; zero points are always 0 in this package."""
        if not self.training:
            stock: Tensor = super().forward(scale, zero_point, bit_width, x)
            return stock
        if self._bounds is None:  # once: reading them from a GPU tensor would stall every step
            self._bounds = float(self.min_int(bit_width)), float(self.max_int(bit_width))
        return self.while_training(x, scale, *self._bounds)

    def while_training(self, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        """Value of `x` on the grid `scale * {low..high}`, with the gradients of this quantizer."""
        quantized: Tensor = self.function.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
        return quantized
