"""Convolutions whose forward pass is computed in 8-bit integers, on processors with instructions for it.

A convolution of two tensors on grids is a sum of products of codes, times two steps. Processors that have
VNNI add four such products where they add two of bfloat16, and the sum is exact: the forward pass of training
is then that of the exported file. Gradients are no integers; the backward pass stays as it is.

Shapes: n images, c channels in, d out, g channels in a group.
"""

import math
from functools import cache
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from qmu_edge.models.fused import Codes, Grid, current
from qmu_edge.models.steps import step_value

# Below these integers would take longer (measured): a weight is packed anew for each convolution, which about
# 500 outputs of a channel make up for, and inputs are written as bytes, which products in an output do.
FROM_PLACES: Final = 1024
FROM_PRODUCTS: Final = {torch.bfloat16: 512, torch.float32: 64}
TO_PRODUCTS: Final = 2**31 // (255 * 128)  # what a sum of 32 bits holds
MIDDLE: Final = 128  # of unsigned bytes


class OnGrid(NamedTuple):
    """What is known of a tensor that came from a quantizer.

    Attributes:
        step: Stored step, shape () or (d, 1, ...).
        grid: Codes.
        version: Of the tensor then; one that was changed in place may have left the grid.
    """

    step: Tensor
    grid: Grid
    version: int


def mark(x: Tensor, step: Tensor, grid: Grid) -> Tensor:
    """`x`, which knows its grid until something new is made of it."""
    if not x.is_inference():  # such tensors have no version
        x.on_grid = OnGrid(step, grid, x._version)  # type: ignore[attr-defined]
    return x


def grid_of(x: Tensor) -> OnGrid | None:
    """The grid on which `x` lies; None where it is unknown, or has codes that are no bytes or look alike."""
    known: OnGrid | None = getattr(x, "on_grid", None)
    if known is None or known.version != x._version:
        return None
    lowest, highest = (code + zero_of(known.grid) for code in known.grid[:2])
    # Codes from 128 on have no neighbour of their own in 8 bits of precision, but where the step is exact.
    distinct = x.dtype != torch.bfloat16 or known.grid.power_of_two or max(map(abs, known.grid[:2])) < MIDDLE
    return known if distinct and lowest >= 0 and highest < 2 * MIDDLE else None


def zero_of(grid: Grid) -> int:
    """Where the code 0 lies among unsigned bytes, which oneDNN wants for what enters a convolution."""
    return MIDDLE if grid.low < 0 else 0


def codes(
    x: Float[Tensor, "*n"], step: Float[Tensor, "*s"], grid: Grid, zero: int
) -> tuple[UInt8[Tensor, "*n"], Float[Tensor, " r"]]:
    """Codes of `x` plus `zero`, as bytes, and the value of each step: NaN where there is a NaN in `x`.

    >>> codes(torch.tensor([-1.0, 0.25, 9.0]), torch.tensor(0.25), Grid(-2, 3), zero=128)
    (tensor([126, 129, 131], dtype=torch.uint8), tensor([0.2500]))
    >>> codes(torch.tensor([-0.5, 0.25]), torch.tensor(0.25), Grid(-2, 3), zero=0)[0].view(torch.int8)
    tensor([-2,  1], dtype=torch.int8)
    >>> codes(torch.tensor([0.5, torch.nan]), torch.tensor(0.25), Grid(0, 3), zero=0)[1]
    tensor([nan])
    """
    value = step_value(step, grid.smallest, power_of_two=grid.power_of_two)
    code = (x.to(step.dtype) / value).round_().clamp_(grid.low, grid.high)
    broken = code.isnan().reshape(step.numel(), -1).any(-1)
    found = (code.nan_to_num_() + zero).to(torch.int32).to(torch.uint8)
    return found, value.view(-1).masked_fill(broken, math.nan)


class IntegerConvolution(torch.autograd.Function):
    """Forward in integers, backward as ever."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "n c h w"],
        weight: Float[Tensor, "d g i j"],
        layer: nn.Conv2d,
        codes: Codes,
    ) -> Float[Tensor, "n d k l"]:
        """See `product`."""
        ctx.save_for_backward(x, weight)
        ctx.form = [layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups]
        return product(x, weight, layer, codes)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "n d k l"]) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of input and weight."""
        wanted = [*ctx.needs_input_grad[:2], False]
        backward = torch.ops.aten.convolution_backward
        of_x, of_weight, _ = backward(grad, *ctx.saved_tensors, None, *ctx.form, wanted)
        return of_x, of_weight, None, None


def product(
    x: Float[Tensor, "n c h w"], weight: Float[Tensor, "d g i j"], layer: nn.Conv2d, codes: Codes
) -> Float[Tensor, "n d k l"]:
    """The convolution of two tensors on grids, as the type of `x`."""
    form = [layer.stride, layer.padding, layer.dilation, layer.groups]
    of_x, of_weight = grid_of(x), grid_of(weight)
    assert of_x is not None and of_weight is not None
    zero = zero_of(of_x.grid)
    bytes_, scale = codes(x, of_x.step, of_x.grid, zero)
    weights, scales = codes(weight, of_weight.step, of_weight.grid, 0)
    packed = torch.ops.onednn.qconv_prepack(
        weights.view(torch.int8), scales, scale.item(), zero, *form, [*x.shape]
    )
    made: Tensor = torch.ops.onednn.qconv2d_pointwise(
        bytes_, scale.item(), zero, packed, scales, torch.zeros_like(scales, dtype=torch.int32), None,
        *form, 1.0, 0, x.dtype, "none", [], "",
    )  # fmt: skip
    return made


@cache
def works() -> bool:
    """Whether this processor multiplies bytes, and exactly: some clip sums of two products at 16 bits."""
    x, weight = torch.full((1, 32, 4, 4), 255.0), torch.full((1, 32, 1, 1), -127.0)
    one, layer = torch.tensor(1.0), nn.Conv2d(32, 1, 1, bias=False)
    mark(x, one, Grid(0, 255))
    mark(weight, one, Grid(-127, 127))
    try:
        known = torch.cpu._is_vnni_supported()
        return known and torch.equal(product(x, weight, layer, codes), F.conv2d(x, weight))
    except (AttributeError, RuntimeError):
        return False


def _suits(x: Tensor, weight: Tensor, layer: nn.Conv2d) -> bool:
    places = len(x) * x.shape[2] * x.shape[3] // math.prod(layer.stride)
    plain = layer.bias is None and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    known = grid_of(x) is not None and grid_of(weight) is not None
    least = FROM_PRODUCTS.get(x.dtype, math.inf)
    worth = places >= FROM_PLACES and least <= weight[0].numel() < TO_PRODUCTS
    return plain and known and worth and x.is_cpu and x.dtype == weight.dtype


def convolve(
    x: Float[Tensor, "n c h w"], weight: Float[Tensor, "d g i j"], layer: nn.Conv2d
) -> Tensor | None:
    """The convolution of `layer`, or None where integers do not serve it or would take longer."""
    codes = current().codes
    if codes is None or not _suits(x, weight, layer):
        return None
    made: Tensor = IntegerConvolution.apply(x, weight, layer, codes)  # type: ignore[no-untyped-call]
    return made
