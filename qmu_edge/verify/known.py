"""What is known of a tensor of an integer file while its graph is gone through: codes, sums, floats.

Floats that are computed of codes, one by one, are the same on every processor that rounds as IEEE 754 says. A
sum of them is, whatever its order, if no partial sum is rounded: if they are all multiples of one unit that
is small enough.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.onnx.graph import Tensor
from qmu_edge.verify.rounding import FLOAT_BITS, Codes, Obstacle, last_bit, step_of

FROM_CODES: Final = frozenset({"Add", "Cast", "Div", "Mul", "ReduceMax", "ReduceSum", "Relu", "Sqrt", "Sub"})

ROOT: Final = "a square root in floats, of which nothing is proven"


@dataclass(frozen=True, slots=True)
class Sum:
    """What a layer, an addition or a mean computes: what stands in the way of rounding it to a grid.

    Attributes:
        rounded: Obstacles from the name of the rounded tensor, its step and its codes.
        rectified: Whether a rectifier comes first.
    """

    rounded: Callable[[str, float, Codes], list[Obstacle]]
    rectified: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Codes as places in a table."""

    high: int


@dataclass(frozen=True, slots=True)
class Found:
    """Codes out of a table, whose zero is not known yet."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Logits:
    """Floats behind a layer: nothing rounds them again."""


@dataclass(frozen=True, slots=True)
class Floats:
    """Floats that are computed of codes, one by one.

    Attributes:
        low, high: The smallest and the largest one, as far as is known.
        unit: All are multiples of it; 0 where they were rounded.
        largest_of: The tensor whose largest number each of them is; empty for others.
    """

    low: float
    high: float
    unit: float = 0.0
    largest_of: str = ""


Value = Codes | Sum | Logits | Place | Found | Floats | NDArray[Any] | None  # None: an image in floats


def combined(op_type: str, a: Floats, b: Floats) -> Floats:
    """What a sum, a difference, a product or a quotient of two lies between, and of what it is a multiple.

    >>> combined("Mul", Floats(-2.0, 2.0, 0.5), Floats(0.0, 3.0, 0.25))
    Floats(low=-6.0, high=6.0, unit=0.125, largest_of='')
    >>> combined("Sub", Floats(0.0, 2.0, 0.5), Floats(0.0, 2.0**24, 0.25)).unit  # has no room
    0.0
    """
    if op_type in ("Add", "Sub"):
        low, high = (a.low + b.low, a.high + b.high) if op_type == "Add" else (a.low - b.high, a.high - b.low)
        return _rounded(low, high, min(a.unit, b.unit))
    if op_type == "Mul":
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        return _rounded(min(ends), max(ends), a.unit * b.unit)
    return Floats(-np.inf, np.inf)


def _rounded(low: float, high: float, unit: float) -> Floats:
    exact = max(abs(low), abs(high)) <= unit * 2**FLOAT_BITS
    return Floats(low, high, unit if exact else 0.0)


def summed(x: Floats, count: int) -> Floats:
    """The sum of so many.

    Raises:
        ExportError: It depends on their order.

    >>> summed(Floats(-1.0, 1.0, 0.5), 4)
    Floats(low=-4.0, high=4.0, unit=0.5, largest_of='')
    """
    total = _rounded(min(x.low, 0.0) * count, max(x.high, 0.0) * count, x.unit)
    if not total.unit:
        raise ExportError("a sum of floats that are rounded, which depends on their order")
    return total


def place_of(x: Floats, element: str) -> Place:
    """Floats as places in a table, without what is behind the point.

    Raises:
        ExportError: They are none, or become another type than INT64.
    """
    if element != "INT64" or not 0 <= x.low <= x.high < np.inf:
        raise ExportError("floats that are no places in a table")
    return Place(int(x.high))


def floats_in(x: Value) -> Floats:
    """The floats that codes stand for, or that are stored.

    Raises:
        ExportError: They are neither.
    """
    if isinstance(x, Floats):
        return x
    if isinstance(x, np.ndarray) and x.dtype == np.float32 and x.size:
        units = [last_bit(float(v)) for v in x.reshape(-1) if v]
        return Floats(float(x.min()), float(x.max()), min(units, default=1.0))
    codes = dequantized(x)
    step = step_of(codes)
    return _rounded((codes.low - codes.zero) * step, (codes.high - codes.zero) * step, last_bit(step))


def dequantized(x: Value) -> Codes:
    """Codes right behind their DequantizeLinear."""
    codes = codes_in(x)
    array_in(codes.scale)
    return codes


def activation(x: Value) -> Codes:
    """The same, of no stored tensor."""
    codes = dequantized(x)
    if codes.stored is not None:
        raise ExportError("a stored tensor in place of an activation")
    return codes


def stored_in(tensor: Tensor) -> NDArray[Any]:
    """Narrow codes become int8 by a Cast only, of which kernels read them."""
    return tensor.array() if tensor.element.bits >= 8 else tensor.array().astype(np.int16)


def codes_in(x: Value) -> Codes:
    """The codes that a tensor holds.

    Raises:
        ExportError: It holds none.
    """
    if not isinstance(x, Codes):
        raise ExportError("floats between layers: their sums depend on the order")
    return x


def array_in(x: Value) -> NDArray[Any]:
    """What is stored.

    Raises:
        ExportError: Nothing is.
    """
    if not isinstance(x, np.ndarray):
        raise ExportError("a scale, a bias or a weight that is not stored")
    return x
