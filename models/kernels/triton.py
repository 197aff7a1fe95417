"""The passes of `fused.py` as Triton kernels for a GPU: one read, one write.

Values and gradients are the same to the bit as those of the plain passes; the gradient of a step is summed in
another order, the same one in every run. Kernels are compiled at their first use in a process, and compared
with the plain passes before they are used.

Rounding gives the same bits on every machine: division follows IEEE 754, clipped values are rounded half to
even by adding and subtracting 1.5 * 2**23, and bfloat16 is computed by integer operations on the bits.

A tensor is r rows of w numbers in memory order, each row with its own step.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from functools import cache
from itertools import product
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qmu_edge.models.kernels.fused import PLAIN, Grid, Passes, serves_rows

BLOCK: Final = 1024
ROUNDER: Final = tl.constexpr(12582912.0)
TYPES: Final = (torch.float32, torch.bfloat16)


@triton.jit
def _stored(value, half: tl.constexpr):
    """`value` as float32, or rounded half to even as bfloat16."""
    if half:
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where(value == value, rounded, 0x7FC0)
        return rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:  # statements after an `if` that returns would be compiled too
        return value


@triton.jit
def _value_of(step, smallest, power_of_two):
    """See `step_value`; adding half of the mantissa's range carries into the exponent from 1.5 on."""
    value = tl.maximum(tl.abs(step), smallest, propagate_nan=tl.PropagateNan.ALL)
    bits = (value.to(tl.uint32, bitcast=True) + 0x400000) & 0x7F800000
    nearest = bits.to(tl.float32, bitcast=True)
    return tl.where((power_of_two > 0) & (value == value), nearest, value)


@triton.jit
def _scaled(x, s, row, at, width, low, high):
    """x/step, clipped to one code beyond the grid, so that adding `ROUNDER` rounds it."""
    v = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    scaled = tl.math.div_rn(v, s)
    return tl.clamp(scaled, low - 1.0, high + 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _values(
    x, step, y, width, low, high, floor, smallest, power_of_two, half: tl.constexpr, block: tl.constexpr
):
    row, at = tl.program_id(1).to(tl.int64), tl.program_id(0) * block + tl.arange(0, block)
    s = _value_of(tl.load(step + row), smallest, power_of_two)
    scaled = _scaled(x, s, row, at, width, low, high)
    code = (scaled + ROUNDER) - ROUNDER
    code = tl.clamp(code, low, high, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + row * width + at, _stored(code * s, half), mask=at < width)


@triton.jit
def _gradients(
    x, grad, step, out, sums, width, low, high, floor, smallest, power_of_two, factor,
    half: tl.constexpr, of_step: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = chunk * block + tl.arange(0, block)
    given = tl.load(grad + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    stored = tl.load(step + row)
    s = _value_of(stored, smallest, power_of_two)
    scaled = _scaled(x, s, row, at, width, low, high)
    code = (scaled + ROUNDER) - ROUNDER
    inside = (code >= low) & (code <= high) & (scaled > floor)
    tl.store(out + row * width + at, _stored(tl.where(inside, given, 0.0), half), mask=at < width)
    if of_step:
        code = tl.clamp(code, low, high, propagate_nan=tl.PropagateNan.ALL)
        slope = code - tl.where(inside, scaled, 0.0)
        sign = tl.where(stored > 0, 1.0, tl.where(stored < 0, -1.0, 0.0))
        tl.store(sums + row * tl.num_programs(0) + chunk, tl.sum(given * slope) * (sign * factor))


def _cut(x: Tensor, step: Tensor) -> tuple[int, tuple[int, int]]:
    """Width of a row, and the launch grid of a kernel: chunks of a row, rows."""
    width = x.numel() // step.numel()
    return width, (-(-width // BLOCK), step.numel())


def _served(x: Tensor, other: torch.dtype, step: Tensor) -> bool:
    return (
        x.dtype in TYPES and other in TYPES and x.numel() > 0
        and step.dtype == torch.float32 and step.device == x.device and step.is_contiguous()
        and serves_rows(x, step)
    )  # fmt: skip


def _numbers(grid: Grid) -> tuple[float, ...]:
    """The fields as floats: for integer arguments Triton compiles kernels specialised to 0 and 1."""
    return tuple(float(value) for value in grid)


def values(x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """See `fused.values`."""
    if not _served(x, dtype, step):
        return PLAIN.values(x, step, grid, dtype)
    y = torch.empty_like(x, dtype=dtype)
    width, programs = _cut(x, step)
    with torch.cuda.device_of(x):
        _values[programs](
            x, step, y, width, *_numbers(grid), half=dtype == torch.bfloat16, block=BLOCK
        )  # fmt: skip
    return y


def gradients(
    x: Tensor, grad: Tensor, step: Tensor, grid: Grid, *, factor: float | None
) -> tuple[Tensor, Tensor | None]:
    """See `fused.gradients`."""
    if not _served(x, grad.dtype, step):
        return PLAIN.gradients(x, grad, step, grid, factor=factor)
    out = torch.empty_like(x)
    width, programs = _cut(x, step)
    of_step = factor is not None
    sums = torch.empty(programs[::-1] if of_step else 1, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _gradients[programs](
            x, grad, step, out, sums, width, *_numbers(grid), factor or 0.0,
            half=x.dtype == torch.bfloat16, of_step=of_step, block=BLOCK,
        )  # fmt: skip
    return out, sums.sum(-1).view(step.shape) if of_step else None


@cache
def tried(device: torch.device) -> Passes | None:
    """The Triton passes, if they agree with the plain passes on `device`; else None.

    They are tested on weights, with a step for each row, and on activations after a rectifier, for every pair
    of types: each pair is compiled separately, and a compilation must not fail in the middle of a run.
    """
    generator = torch.Generator().manual_seed(0)
    x, step = torch.randn(3, BLOCK + 9, generator=generator), torch.tensor([[0.1], [0.3], [2.0]])
    x[0, :2] = torch.tensor([torch.nan, torch.inf])
    x, step = x.to(device), step.to(device)
    cases = ((x, step, Grid(-2, 1)), (x[1], step[1, 0], Grid(0, 15, 0.0, 0.1, power_of_two=True)))
    try:
        for (x, step, grid), of, to in product(cases, TYPES, TYPES):
            if not _agrees(x.to(of), step, grid, to):
                return None
    except Exception:  # no compiler, an old driver, a new GPU: in any case the plain passes work
        return None
    return Passes(values, gradients)


def _agrees(x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> bool:
    expected = PLAIN.values(x, step, grid, dtype)
    if not torch.equal(values(x, step, grid, dtype).nan_to_num(9.0), expected.nan_to_num(9.0)):
        return False
    if x.dim() > 1:
        x, step, expected = x[1:], step[1:], expected[1:]  # without the row with NaN, which equals nothing
    given = torch.ones_like(expected)
    found: Any = gradients(x, given, step, grid, factor=0.5)
    wanted: Any = PLAIN.gradients(x, given, step, grid, factor=0.5)
    return torch.equal(found[0], wanted[0]) and torch.allclose(found[1], wanted[1], rtol=1e-4)
