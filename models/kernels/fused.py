"""Fused fake quantization for training: one elementwise pass forward, one backward.

Brevitas' implementation is a chain of elementwise operations, each with its own saved tensors; it costs more
than the convolution that follows. This one computes the same forward values and the same gradients, saves
only its input, and includes the preceding rectifier. Evaluation and export use Brevitas' implementation, so
that exported files never depend on this one.

The two passes here are plain PyTorch functions for any device. `native.py` has compiled ones for the CPU,
`triton.py` has kernels for a GPU. `choice.py` chooses, `using` sets the choice.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import torch
from brevitas.core.quant import IntQuant
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.kernels.steps import SMALLEST_STEP, step_value


class Grid(NamedTuple):
    """Codes of a quantizer.

    Attributes:
        low, high: Smallest and largest code.
        floor: Lower bound of x/step for a non-zero gradient: 0 where the quantizer includes a rectifier.
            Forward values need no bound: clipping to a grid that begins at 0 rectifies.
        smallest, power_of_two: Arguments of `step_value`, which maps the parameter to the step; its gradient
            is that of the step (straight-through).
    """

    low: float
    high: float
    floor: float = -math.inf
    smallest: float = 0.0
    power_of_two: bool = False


class OnGrid(NamedTuple):
    """Record of how a tensor was quantized.

    Attributes:
        step, grid: Step and codes that it was rounded with.
        versions: Version counters of tensor and step at that time, to detect changes in place.
    """

    step: Tensor
    grid: Grid
    versions: tuple[int, int]


def mark(x: Float[Tensor, "*n"], step: Float[Tensor, "*s"], grid: Grid) -> Float[Tensor, "*n"]:
    """`x` with a record of its grid; tensors computed from it have none."""
    if not x.is_inference() and not step.is_inference():  # inference tensors have no version counter
        x.on_grid = OnGrid(step.detach(), grid, (x._version, step._version))  # type: ignore[attr-defined]
    return x


def grid_of(x: Tensor) -> OnGrid | None:
    """The record of the grid of `x`; None without a valid one."""
    known: OnGrid | None = getattr(x, "on_grid", None)
    return known if known and known.versions == (x._version, known.step._version) else None


def values(
    x: Float[Tensor, "*n"], step: Float[Tensor, "*s"], grid: Grid, dtype: torch.dtype
) -> Float[Tensor, "*n"]:
    """`x` rounded half to even to the grid, as `dtype`.

    >>> values(torch.tensor([-0.7, 0.25, 9.0]), torch.tensor(0.5), Grid(0, 3), torch.float32)
    tensor([0.0000, 0.0000, 1.5000])
    """
    value = step_value(step, grid.smallest, power_of_two=grid.power_of_two)
    return ((x.to(step.dtype) / value).round_().clamp_(grid.low, grid.high) * value).to(dtype)


def gradients(
    x: Float[Tensor, "*n"],
    grad: Float[Tensor, "*n"],
    step: Float[Tensor, "*s"],
    grid: Grid,
    *,
    factor: float | None,
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*s"] | None]:
    """Gradient of `x`, and `factor` times that of `step` where there is one.

    The derivative by `x` is 1 inside the clipping range, 0 outside; by `step` it is code - x/step inside, the
    clipped code outside. The gradient of `step` is summed in the precision of `step`: in half precision most
    terms would be lost.

    >>> x, ones = torch.tensor([-0.1, 0.3, 9.0]), torch.ones(3)
    >>> gradients(x, ones, torch.tensor(0.5), Grid(0, 3, floor=0), factor=1.0)
    (tensor([0., 1., 0.]), tensor(3.4000))
    """
    scaled = x.to(step.dtype) / step_value(step, grid.smallest, power_of_two=grid.power_of_two)
    rounded = scaled.round()
    code = rounded.clamp(grid.low, grid.high)
    inside = (rounded == code) & (scaled > grid.floor)
    of_x = (grad * inside).to(x.dtype)
    if factor is None:
        return of_x, None
    slope = torch.where(inside, code - scaled, code)
    of_value = (grad.to(step.dtype) * slope).sum_to_size(step.shape)
    return of_x, of_value * (step.sign() * factor)


Codes = Callable[[Tensor, Tensor, Grid, int], tuple[Tensor, Tensor]]


class Passes(NamedTuple):
    """The two functions above, or equivalent ones for tensors that are dense in memory.

    `codes`, where present, allows integer convolutions, see `integer_conv.py`.

    A step is one number, or one for each entry of the first dimension, which is then the outermost in memory.
    Values and gradients have the memory layout of `x`.
    """

    values: Callable[[Tensor, Tensor, Grid, torch.dtype], Tensor]
    gradients: Callable[..., tuple[Tensor, Tensor | None]]
    codes: Codes | None = None


PLAIN: Final = Passes(values, gradients)
_current: Final = ContextVar("passes of quantizers", default=PLAIN)


def current() -> Passes:
    """The passes that quantizers run."""
    return _current.get()


@contextmanager
def using(passes: Passes) -> Iterator[None]:
    """Set the passes, forward and backward, of quantizers whose forward pass runs inside the context."""
    token = _current.set(passes)
    try:
        yield
    finally:
        _current.reset(token)


def _order(x: Tensor) -> torch.memory_format:
    """Memory format whose outermost dimension is the first; that of `x` where it is such a format."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def serves_rows(x: Tensor, step: Tensor) -> bool:
    """Whether a step is one number, or one for each entry of the first dimension of `x`."""
    return step.dim() == 0 or (step.dim() == x.dim() and step.numel() == step.shape[0] == x.shape[0])


class FakeQuantize(torch.autograd.Function):
    """Round to a clipped grid, with LSQ's gradients for value and step.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*x"],
        step: Float[Tensor, "*s"],
        grid: Grid,
        dtype: torch.dtype,
        factor: float,
    ) -> Float[Tensor, "*x"]:
        """See `fake_quantize`; `x` has a memory layout that `Passes` accept."""
        ctx.save_for_backward(x, step)
        ctx.grid, ctx.passes, ctx.factor = grid, current(), factor
        return current().values(x, step, grid, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*x"]) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Gradients of value and step."""
        x, step = ctx.saved_tensors
        passes = PLAIN if torch.is_grad_enabled() else ctx.passes  # for second derivatives
        of_x, of_step = passes.gradients(
            x, grad.contiguous(memory_format=_order(x)), step, ctx.grid,
            factor=ctx.factor if ctx.needs_input_grad[1] else None,
        )  # fmt: skip
        return of_x, of_step, None, None, None


def fake_quantize(
    x: Float[Tensor, "*x"],
    step: Float[Tensor, "*s"],
    grid: Grid,
    dtype: torch.dtype,
    *,
    factor: float = 1.0,
    through: bool = False,
) -> Float[Tensor, "*x"]:
    """`x` on the grid as `dtype`, with LSQ's gradients.

    Args:
        x: What is quantized.
        step: Shape (), or (n, 1, ...) for the n channels that `x` has in its first dimension.
        grid: Codes.
        dtype: Type of the result; the gradient of `x` has the type of `x`.
        factor: Factor on the gradient of the step.
        through: Pass the gradient of `x` outside of the clipping range as well.
    """
    x = x.contiguous(memory_format=_order(x))
    value = x.detach() if through else x
    quantized: Tensor = FakeQuantize.apply(value, step, grid, dtype, factor)  # type: ignore[no-untyped-call]
    return mark(quantized + (x - value).to(dtype) if through else quantized, step, grid)


class FusedIntQuant(IntQuant):  # type: ignore[misc]
    """Brevitas' `IntQuant` with a fused pass in training, which subclasses override.

    Attributes:
        clamp_through: While true, the gradient of the value passes outside of the clipping range as well,
            see `calibration.clamp_through`; that of the step does not change.
    """

    clamp_through = False
    _grid: Grid | None = None

    @property
    def shifted(self) -> Tensor | None:
        """The smallest code of a grid that lies aside, see `shift`; None of any other."""
        low: Tensor | None = self._buffers.get("low")
        return low

    def shift(self, low: int) -> None:
        """Have as many codes from another smallest one, as files with zero points do; 0 is one of them."""
        self.register_buffer("low", torch.tensor(float(low)))
        self._grid = None

    def min_int(self, bit_width: Tensor) -> Tensor:
        """The smallest code."""
        low = self.shifted
        found: Tensor = super().min_int(bit_width) if low is None else low
        return found

    def max_int(self, bit_width: Tensor) -> Tensor:
        """The largest code."""
        low = self.shifted
        found: Tensor = super().max_int(bit_width) if low is None else low + 2.0**bit_width - 1.0
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if f"{prefix}low" in state_dict and self.shifted is None:
            self.shift(0)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._grid = None

    def grid(self, bit_width: Callable[[], Tensor]) -> Grid:
        """The grid of this quantizer; the bit width is read once, since a read synchronises with a GPU."""
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

    def on_learned_step(self, x: Tensor, scaling: Any, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The same for a `LearnedStep`; the passes include `step_value` and the factor on its gradient."""
        grid = grid._replace(smallest=SMALLEST_STEP, power_of_two=scaling.power_of_two)
        factor = scaling.gradient_scale(x) if scaling.step.requires_grad else 1.0
        return fake_quantize(x, scaling.step, grid, dtype, factor=factor, through=self.clamp_through)
