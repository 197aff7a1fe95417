"""What onnxruntime's kernels do with integers, and where those of two processors come to different codes.

Source: MLAS, the kernels of onnxruntime 1.31 (qladd, qlmul, qlgavgpool, quantize, qgemm) for SSE4, AVX2,
    AVX512, VNNI, NEON of 64 bits and WebAssembly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError

INT16: Final = 32767
INT32: Final = 2**31 - 1
FLOAT_BITS: Final = 24  # of the mantissa of float32
FIXED_BITS: Final = 21  # of the greater multiplier of ARM's addition, behind the point
MOST_STEP: Final = 2.0**30  # of activations, whose least is 1 / it: with a weight's, floats of full width
MOST_WEIGHT_STEP: Final = 2.0**60
CODES: Final = 256  # a rounded value is no larger, or it is clipped


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a file is not proven to compute the same everywhere.

    Attributes:
        tensor: The output of the node where results may differ, or the node's weight.
        why: What may differ.
        clips: Whether x86 without VNNI computes something else, by a lot: sums of two products are clipped.
    """

    tensor: str
    why: str
    clips: bool = False

    def __str__(self) -> str:
        """For people."""
        return f"{self.tensor}: {self.why}"


class Processors(StrEnum):
    """Where a file is proven to compute the same bits."""

    EVERY = "every processor"
    WIDE = "those that add products of 8 bits in 32: ARM, and x86 with VNNI"
    UNPROVEN = "not proven"


def processors_of(found: Sequence[Obstacle]) -> Processors:
    """Where a file with these obstacles computes the same.

    >>> str(processors_of([])), str(processors_of([Obstacle("w", "", clips=True), Obstacle("x", "")]))
    ('every processor', 'not proven')
    """
    if not found:
        return Processors.EVERY
    return Processors.WIDE if all(obstacle.clips for obstacle in found) else Processors.UNPROVEN


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor of codes: the smallest and the largest one as stored, their grid, and if known all of them."""

    low: int
    high: int
    scale: NDArray[Any] | None = None
    zero: int = 0
    stored: NDArray[Any] | None = None


def accumulated(name: str, weights: NDArray[np.int64], bias: int, x: Codes) -> list[Obstacle]:
    """Whether sums fit 32 bits, and pairs of products 16.

    Args:
        name: Of the weight.
        weights: Codes (o, m).
        bias: Largest magnitude of its codes.
        x: What enters; kernels subtract its zero point before or behind the sum, or take 128 off.

    >>> accumulated("w", np.array([[64, 64], [-63, 127]]), 0, Codes(0, 255, zero=128))
    []
    >>> found = accumulated("w", np.array([[64, 65]]), 0, Codes(0, 255, zero=128))
    >>> print(found[0])
    w: two products of up to 255 and 64 + 65 do not fit 16 bits; processors without VNNI clip their sum
    """
    largest, found = max(x.high, x.zero, 128), []
    sums = 2 * largest * np.abs(weights).sum(axis=1) + bias
    if (most := int(sums.max())) > INT32:
        found.append(Obstacle(name, f"a sum of up to {most:,} does not fit 32 bits"))
    top = np.sort(np.concatenate([np.zeros((len(weights), 2), np.int64), weights], axis=1), axis=1)
    pairs = np.stack([top[:, -2:], -top[:, :2]])  # the two largest of either sign
    worst = pairs.reshape(-1, 2)[pairs.sum(axis=2).argmax()]
    at_once = max(x.high, x.zero)
    if at_once * int(worst.sum()) > INT16:
        a, b = sorted(worst.tolist())
        why = f"two products of up to {at_once} and {a} + {b} do not fit 16 bits"
        found.append(Obstacle(name, f"{why}; processors without VNNI clip their sum", clips=True))
    return found


def scaled(name: str, step: float, output: float) -> list[Obstacle]:
    """Whether the factor of a layer's sums is the same number in whichever order it is computed."""
    if _power_of_two(step) and _power_of_two(output):
        return []
    return [Obstacle(name, "a step that is no power of two, so that the order of factors shows")]


def added(name: str, a: Codes, b: Codes, step: float, codes: Codes) -> list[Obstacle]:
    """Whether the sum of any two codes is further from a half than any kernel errs.

    >>> half, small = (Codes(0, 15, np.array(x)) for x in (0.5, 0.5 * (1 - 2**-12)))
    >>> print(*added("y", half, half, 1.0, Codes(0, 255)))
    y: a sum of two codes lies 0.0e+00 steps from a half, where kernels err by 0.0e+00
    >>> added("y", small, small, 1.0, Codes(0, 255))
    []
    """
    ratios = [step_of(x) / step for x in (a, b)]
    terms = [r * (np.arange(x.low, x.high + 1) - x.zero) for r, x in zip(ratios, (a, b), strict=True)]
    sums = np.add.outer(*terms)
    fixed = max(codes.zero, sum(r * x.zero for r, x in zip(ratios, (a, b), strict=True)))
    inner = fixed + max(r * x.high for r, x in zip(ratios, (a, b), strict=True))
    error = max(_float_error(ratios, [fixed, fixed, inner, CODES]), _fixed_error(ratios))
    return _near_a_half(name, "a sum of two codes", sums.reshape(-1), codes, error)


def multiplied(name: str, a: Codes, b: Codes, step: float, codes: Codes) -> list[Obstacle]:
    """Whether the factor of products of two codes is the same number in whichever order it is computed.

    The products themselves have 16 bits, so that floats hold them; all kernels round what they become half to
    even.

    >>> x = Codes(0, 255, np.array(0.5))
    >>> multiplied("y", x, x, 0.25, Codes(0, 255))
    []
    >>> print(*multiplied("y", x, Codes(0, 255, np.array(0.3)), 0.25, Codes(0, 255)))
    y: a step that is no power of two, so that the order of factors shows
    """
    return [*scaled(name, step_of(a), step), *scaled(name, step_of(b), step)][:1]


def averaged(name: str, x: Codes, pixels: int, step: float, codes: Codes) -> list[Obstacle]:
    """The same of every sum of so many codes, divided by their number.

    >>> four = Codes(0, 15, np.array(1.0))
    >>> print(*averaged("y", four, 4, 1.0, Codes(0, 255)))
    y: a mean of codes lies 0.0e+00 steps from a half, where kernels err by 0.0e+00
    """
    ratio = step_of(x) / (step * pixels)
    sums = np.arange((x.low - x.zero) * pixels, (x.high - x.zero) * pixels + 1)
    error = _float_error([ratio], [CODES, CODES, CODES if sums[-1] > 2**FLOAT_BITS else 0])
    return _near_a_half(name, "a mean of codes", sums * np.float64(ratio), codes, error)


def held(steps: NDArray[Any], weights: bool = False) -> NDArray[Any]:
    """The steps, if no product or quotient of three overflows or loses bits; of weights also 0 and negative.

    Raises:
        ExportError: Others, or no float32.

    >>> float(held(np.float32(0.1)[None])[0]), float(held(np.float32(0)[None], weights=True)[0])
    (0.10000000149011612, 0.0)
    """
    most, sizes = (MOST_WEIGHT_STEP, np.abs(steps)) if weights else (MOST_STEP, steps)
    if (
        steps.dtype != np.float32
        or not ((sizes >= 1 / most) & (sizes <= most) | (weights & (sizes == 0))).all()
    ):
        raise ExportError("steps whose products are no float32 of full width")
    return steps


def _near_a_half(
    name: str, what: str, values: NDArray[np.float64], codes: Codes, error: float
) -> list[Obstacle]:
    """Whether a value, in steps, lies so close to a half that a kernel may round it to another code.

    Args:
        name: Of the rounded tensor.
        what: The values are.
        values: float64 (n,), exact.
        codes: What they are rounded to; beyond the last codes all are clipped.
        error: The largest of any kernel, in steps.
    """
    inside = values[(values > codes.low - codes.zero) & (values < codes.high - codes.zero)]
    nearest = float(np.abs(inside - np.floor(inside) - 0.5).min()) if inside.size else 0.5
    if nearest > error:
        return []
    return [Obstacle(name, f"{what} lies {nearest:.1e} steps from a half, where kernels err by {error:.1e}")]


def _float_error(ratios: list[float], magnitudes: list[float | int]) -> float:
    """The error of a sum in float32, in steps.

    Args:
        ratios: Of the operands' steps to the result's.
        magnitudes: Of what is rounded on the way, one for each rounding. Nothing is rounded where all that
            can occur is a multiple of one unit that is small enough.

    >>> _float_error([0.5, 0.25], [1000.0, 256.0]), _float_error([1 / 3], [1.0]) > 0
    (0.0, True)
    """
    unit = min(last_bit(r) for r in ratios)
    return 0.0 if sum(magnitudes) <= unit * 2**FLOAT_BITS else sum(magnitudes) * 2.0**-FLOAT_BITS


def _fixed_error(ratios: list[float]) -> float:
    """The error of a sum in ARM's fixed point, whose multipliers are rounded.

    >>> _fixed_error([0.5, 0.25]), _fixed_error([0.3, 1.0]) > 0
    (0.0, True)
    """
    unit = 2.0 ** (np.floor(np.log2(max(ratios))) - FIXED_BITS)
    return 255 * float(sum(abs(r - np.rint(r / unit) * unit) for r in ratios))


def last_bit(x: float) -> float:
    """The power of two of which a number is an odd multiple.

    >>> last_bit(0.75), last_bit(6.0)
    (0.25, 2.0)
    """
    mantissa, exponent = np.frexp(x)
    whole = int(mantissa * 2**53)
    return float((whole & -whole) * 2.0 ** (int(exponent) - 53))


def _power_of_two(x: float) -> bool:
    return x > 0 and float(np.frexp(x)[0]) == 0.5


def step_of(x: Codes) -> float:
    """The step of a grid.

    Raises:
        ExportError: There is none.
    """
    if x.scale is None:
        raise ExportError("codes without a grid")
    return float(x.scale)
