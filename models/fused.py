"""Integer quantization for training: one pass forward, one pass backward.

The stock path is a chain of elementwise operations, each with its own saved tensors; it costs more than the
convolution beside it. This one computes the same forward values and the same gradients, saves only its input,
and takes the rectifier before it into the same pass. Evaluation and export take the stock path, so what ships
never depends on this file.

The two passes are plain functions on any device. `native.py` has the same ones as machine code for the
processor, `triton_passes.py` as kernels for a GPU; `using` chooses.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from brevitas.core.quant import IntQuant
from jaxtyping import Float
from torch import Tensor


class Grid(NamedTuple):
    """Codes of a quantizer.

    Attributes:
        low, high: Smallest and largest code.
        floor: What x/step must exceed to have a gradient: 0 where a rectifier belongs to the quantizer. The
            value needs no such thing: a grid that begins at 0 rectifies by clipping.
    """

    low: float
    high: float
    floor: float = -math.inf


def values(
    x: Float[Tensor, "*n"], step: Float[Tensor, "*s"], grid: Grid, dtype: torch.dtype
) -> Float[Tensor, "*n"]:
    """`x` on the grid, as `dtype`; round half to even, as everywhere.

    >>> values(torch.tensor([-0.7, 0.25, 9.0]), torch.tensor(0.5), Grid(0, 3), torch.float32)
    tensor([0.0000, 0.0000, 1.5000])
    """
    return ((x.to(step.dtype) / step).round_().clamp_(grid.low, grid.high) * step).to(dtype)


def gradients(
    x: Float[Tensor, "*n"], grad: Float[Tensor, "*n"], step: Float[Tensor, "*s"], grid: Grid, *, of_step: bool
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*r"] | None]:
    """Gradient of `x`, and of `step` summed over the last dimension where it is wanted.

    Value: 1 inside the clipping range, 0 outside. Step: code - x/step inside, the clipped code outside. The
    sum is one of numbers as wide as the step: in half precision it would lose most of its terms.

    >>> x, ones = torch.tensor([-0.1, 0.3, 9.0]), torch.ones(3)
    >>> gradients(x, ones, torch.tensor(0.5), Grid(0, 3, floor=0), of_step=True)
    (tensor([0., 1., 0.]), tensor(3.4000))
    """
    scaled = x.to(step.dtype) / step
    rounded = scaled.round()
    code = rounded.clamp(grid.low, grid.high)
    inside = (rounded == code) & (scaled > grid.floor)
    of_x = (grad * inside).to(x.dtype)
    if not of_step:
        return of_x, None
    slope = torch.where(inside, code - scaled, code)
    return of_x, (grad.to(step.dtype) * slope).sum(-1)


class Passes(NamedTuple):
    """The two functions above, or others that compute the same."""

    values: Callable[[Tensor, Tensor, Grid, torch.dtype], Tensor]
    gradients: Callable[..., tuple[Tensor, Tensor | None]]


PLAIN: Final = Passes(values, gradients)
_current = PLAIN


def current() -> Passes:
    """The passes that quantizers run."""
    return _current


@contextmanager
def using(passes: Passes) -> Iterator[None]:
    """Let quantizers that run forward in this context use these passes, forward and backward."""
    global _current
    before, _current = _current, passes
    try:
        yield
    finally:
        _current = before


class _Rows(NamedTuple):
    """How a tensor becomes a row of numbers in memory order, or one row for each channel, and back."""

    order: list[int]
    shape: list[int]
    channels: int

    @classmethod
    def of(cls, x: Tensor, step: Tensor) -> "_Rows":
        channels, strides = step.numel() if step.dim() else 0, x.stride()
        # Channels come first whatever their stride is; the other dimensions as they lie.
        order = sorted(range(x.dim()), key=lambda d: (channels > 0 and d > 0, -strides[d]))
        return cls(order, [x.shape[d] for d in order], channels)

    def rows(self, x: Tensor) -> Tensor:
        ordered = x.permute(self.order)
        return (ordered.reshape(self.channels, -1) if self.channels else ordered.reshape(-1)).contiguous()

    def steps(self, step: Tensor) -> Tensor:
        return step.reshape(-1, 1) if self.channels else step

    def restored(self, rows: Tensor) -> Tensor:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return rows.view(self.shape).permute(back)


class FakeQuantize(torch.autograd.Function):
    """Round to a clipped grid, with LSQ's gradients for value and step.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*x"], step: Float[Tensor, "*s"], grid: Grid, dtype: torch.dtype
    ) -> Float[Tensor, "*x"]:
        """See `fake_quantize`."""
        layout = _Rows.of(x, step)
        ctx.save_for_backward(x, step)
        ctx.grid, ctx.passes, ctx.layout = grid, _current, layout
        return layout.restored(_current.values(layout.rows(x), layout.steps(step), grid, dtype))

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*x"]) -> tuple[Tensor, Tensor | None, None, None]:
        """Gradients of value and step."""
        x, step = ctx.saved_tensors
        layout: _Rows = ctx.layout
        passes = PLAIN if torch.is_grad_enabled() else ctx.passes  # someone differentiates once more
        of_x, of_step = passes.gradients(
            layout.rows(x), layout.rows(grad), layout.steps(step), ctx.grid,
            of_step=ctx.needs_input_grad[1],
        )  # fmt: skip
        return layout.restored(of_x), None if of_step is None else of_step.reshape(step.shape), None, None


def fake_quantize(
    x: Float[Tensor, "*x"],
    step: Float[Tensor, "*s"],
    grid: Grid,
    dtype: torch.dtype,
    *,
    through: bool = False,
) -> Float[Tensor, "*x"]:
    """`x` on the grid as `dtype`, with LSQ's gradients.

    Args:
        x: What is quantized.
        step: Shape (), or (n, 1, ...) for the n channels that `x` has in its first dimension.
        grid: Codes.
        dtype: Of the result; the gradient of `x` has that of `x`.
        through: Let the gradient of `x` pass outside of the clipping range as well.
    """
    value = x.detach() if through else x
    quantized: Tensor = FakeQuantize.apply(value, step, grid, dtype)  # type: ignore[no-untyped-call]
    return quantized + (x - value).to(dtype) if through else quantized


class FusedIntQuant(IntQuant):  # type: ignore[misc]
    """Brevitas' `IntQuant` that takes one pass while training; presets may take another.

    Attributes:
        clamp_through: While true, the gradient of the value passes outside of the clipping range as well,
            see `scales.clamp_through`; that of the step is as ever.
    """

    clamp_through = False
    _grid: Grid | None = None

    def grid(self, bit_width: Callable[[], Tensor]) -> Grid:
        """The grid of this quantizer; the width is read once, because reading it from a GPU would stall."""
        if self._grid is None:
            bits = bit_width()
            self._grid = Grid(float(self.min_int(bits)), float(self.max_int(bits)))
        return self._grid

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Quantize and dequantize `x`; zero points are always 0 in this package."""
        if not self.training:
            stock: Tensor = super().forward(scale, zero_point, bit_width, x)
            return stock
        return self.while_training(x, scale, self.grid(lambda: bit_width), x.dtype)

    def while_training(self, x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
        """`x` on the grid as `dtype`, with the gradients of this quantizer."""
        return fake_quantize(x, step, grid, dtype, through=self.clamp_through)
