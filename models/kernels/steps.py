"""The value of a learned step in quantization."""

from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

SMALLEST_STEP: Final = 1e-8  # a step may shrink while it is learned, never reach zero


def short_mantissa(x: Shaped[Tensor, "*s"], bits: int) -> Shaped[Tensor, "*s"]:
    """The nearest number whose mantissa has `bits` bits; with one bit, the nearest power of two.

    >>> short_mantissa(torch.tensor([0.3, -0.7, 0.8, 1.1]), 1)
    tensor([ 0.2500, -0.5000,  1.0000,  1.0000])
    """
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent)


def step_value(step: Float[Tensor, "*s"], smallest: float, *, power_of_two: bool) -> Float[Tensor, "*s"]:
    """Magnitude of a stored step, at least `smallest`; so a step that becomes negative keeps a valid value.

    With `power_of_two` it is rounded to the nearest power of two, with a straight-through gradient. NaN, a
    step that was never set, stays NaN.

    >>> step_value(torch.tensor([0.3, -0.3, 0.1]), 0.2, power_of_two=False)
    tensor([0.3000, 0.3000, 0.2000])
    >>> step_value(torch.tensor([0.3, -0.3, torch.nan]), 0.2, power_of_two=True)
    tensor([0.2500, 0.2500,    nan])
    """
    value = step.abs().clamp_min(smallest)
    if not power_of_two:
        return value
    given = value.detach()
    return value + (short_mantissa(given, 1) - given)  # exact: they are within a factor of two
