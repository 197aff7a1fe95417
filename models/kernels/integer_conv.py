"""Convolutions whose forward pass is computed in 8-bit integers, on CPUs with VNNI instructions.

A convolution of two tensors on grids is a sum of products of codes, times two steps. With VNNI a CPU
accumulates four such products in the time of two bfloat16 ones, and exactly, as integer kernels on devices
do. Gradients are not integers; the backward pass is computed in floats.

Shapes: n images, c channels in, d out, g in a group; h x w and k x l pixels in and out, i x j of the kernel;
r steps.
"""

import math
from functools import cache
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from qmu_edge.models.kernels.fused import Codes, Grid, current, grid_of, mark
from qmu_edge.models.kernels.steps import step_value

# Below these, integer convolutions are slower (measured on a CPU with VNNI and AVX512-BF16): outputs of a
# channel, because weights are packed in every call; and products for each number that is read or written,
# because inputs are written as bytes first.
FROM_PLACES: Final = 1024
FROM_INTENSITY: Final = {torch.bfloat16: 80, torch.float32: 16}
TO_UNFOLDED: Final = 16  # outputs of an image and channel; for more, oneDNN's gradient of a weight is faster
TO_PRODUCTS: Final = 2**31 // (255 * 128)  # of an output: the sum fits 32 bits
MIDDLE: Final = 128  # zero point of signed codes stored as unsigned bytes


class Form(NamedTuple):
    """Stride, padding and dilation (height, width) of a convolution, and its number of groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


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


def product(
    x: Float[Tensor, "n c h w"], weight: Float[Tensor, "d g i j"], form: Form, codes: Codes
) -> Float[Tensor, "n d k l"]:
    """The convolution of two tensors with recorded grids, in the type of `x`.

    Raises:
        AttributeError: A tensor has no recorded grid.
    """
    of_x, of_weight = x.on_grid, weight.on_grid  # type: ignore[attr-defined]
    zero = MIDDLE if of_x.grid.low < 0 else 0  # oneDNN takes unsigned bytes
    inputs, step = codes(x, of_x.step, of_x.grid, zero)
    weights, steps = codes(weight, of_weight.step, of_weight.grid, 0)
    none, scale = steps.new_zeros(1, dtype=torch.int32), step.item()
    # Packing does not depend on the steps, but reads each of them: ones are as good.
    packed = torch.ops.onednn.qconv_prepack(
        weights.view(torch.int8), steps.new_ones(1), scale, zero, *form, [*x.shape]
    )
    made: Tensor = torch.ops.onednn.qconv2d_pointwise(
        inputs, scale, zero, packed, steps, none, None, *form, 1.0, 0, x.dtype, "none", [], ""
    )
    return made


def weight_gradient(
    grad: Float[Tensor, "n d k l"], x: Float[Tensor, "n c h w"], weight: Float[Tensor, "d c i j"], form: Form
) -> Float[Tensor, "d c i j"]:
    """Gradient of the weight of a convolution with one group: a matrix product with the unfolded input."""
    stride, padding, dilation = form.stride, form.padding, form.dilation
    (d, c, i, j), (n, _, k, l) = weight.shape, grad.shape  # noqa: E741
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1).contiguous()
    image, row, column, channel = padded.stride()
    unfolded = padded.as_strided(
        (n, k, l, i, j, c),
        (image, row * stride[0], column * stride[1], row * dilation[0], column * dilation[1], channel),
    )
    product = grad.permute(0, 2, 3, 1).reshape(-1, d).t() @ unfolded.reshape(n * k * l, -1)
    return product.view(d, i, j, c).permute(0, 3, 1, 2)


class IntegerConvolution(torch.autograd.Function):
    """`product` forward, the convolution's own gradients backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "n c h w"], weight: Float[Tensor, "d g i j"], form: Form, codes: Codes
    ) -> Float[Tensor, "n d k l"]:
        """See `product`."""
        ctx.save_for_backward(x, weight)
        ctx.form = form
        return product(x, weight, form, codes)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "n d k l"]) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of input and weight."""
        stride, padding, dilation, groups = ctx.form
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        unfolds = wants_weight and groups == 1 and grad.dtype == torch.bfloat16
        unfolds = unfolds and grad.shape[2] * grad.shape[3] <= TO_UNFOLDED
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups,
            (wants_x, wants_weight and not unfolds, False),
        )  # fmt: skip
        return of_x, weight_gradient(grad, x, weight, ctx.form) if unfolds else of_weight, None, None


@cache
@torch.inference_mode(mode=False)
def works() -> bool:
    """Whether this CPU computes byte products exactly: some saturate sums of two products at 16 bits."""
    if not torch.cpu._is_vnni_supported():
        return False
    one, form = torch.ones((), dtype=torch.float32), Form((1, 1), (0, 0), (1, 1), 1)
    weight = torch.tensor([127.0, -127.0]).view(2, 1, 1, 1).repeat(1, 32, 1, 1)
    try:
        for grid in (Grid(0, 255), Grid(-128, 127)):
            for dtype in FROM_INTENSITY:
                x = mark(torch.full((1, 32, 4, 4), grid.high, dtype=dtype), one, grid)
                made = product(x, mark(weight.to(dtype), one, Grid(-127, 127)), form, codes)
                expected = torch.tensor([32 * 127 * grid.high, -32 * 127 * grid.high]).to(dtype)
                if not torch.equal(made, expected.view(1, 2, 1, 1).expand(1, 2, 4, 4)):
                    return False
    except (AttributeError, RuntimeError):
        return False
    return True


def intensity(weight: Float[Tensor, "d g i j"], form: Form) -> float:
    """Products for each number that a convolution reads or writes.

    >>> intensity(torch.empty(64, 32, 3, 3), Form((1, 1), (1, 1), (1, 1), 1))
    192.0
    """
    inputs = weight.shape[1] * form.groups * math.prod(form.stride)
    return weight.numel() / (inputs + len(weight))


def byte_grid(x: Tensor) -> Grid | None:
    """The grid of `x`, where it is known, its codes fit a byte, and their values are distinct in its type."""
    known = grid_of(x)
    if known is None:
        return None
    low, high = known.grid[:2]
    # In the 8 bits of precision of bfloat16, multiples of a step above 128 may round to the same value.
    distinct = x.dtype != torch.bfloat16 or known.grid.power_of_two or max(-low, high) <= MIDDLE
    fits = -MIDDLE <= low and high < (MIDDLE if low < 0 else 2 * MIDDLE)
    return known.grid if distinct and fits else None


def _worthwhile(x: Tensor, weight: Tensor, form: Form) -> bool:
    if x.dim() != 4 or not x.is_cpu or x.dtype != weight.dtype or x.dtype not in FROM_INTENSITY:
        return False
    places = len(x) * x.shape[2] * x.shape[3] // math.prod(form.stride)
    fits = weight.numel() // len(weight) < TO_PRODUCTS
    return places >= FROM_PLACES and fits and intensity(weight, form) >= FROM_INTENSITY[x.dtype]


def convolve(
    x: Float[Tensor, "*n c h w"], weight: Float[Tensor, "d g i j"], layer: nn.Conv2d
) -> Float[Tensor, "n d k l"] | None:
    """The integer convolution of `layer`, or None where it is not supported or would be slower."""
    codes = current().codes
    if codes is None or layer.bias is not None or layer.padding_mode != "zeros":
        return None
    form = Form(layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
    if isinstance(layer.padding, str) or not _worthwhile(x, weight, form):
        return None
    of_weight = byte_grid(weight)
    if of_weight is None or of_weight.low >= 0 or byte_grid(x) is None:
        return None
    made: Tensor = IntegerConvolution.apply(x, weight, form, codes)  # type: ignore[no-untyped-call]
    return made
