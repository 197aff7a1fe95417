"""Integer codes and their grids: which codes a width allows, and whether values are code times scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def code_range(bits: int, *, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Give the smallest and the largest code.

    >>> code_range(4, signed=True), code_range(4, signed=True, narrow=True)
    ((-8, 7), (-7, 7))
    >>> code_range(2, signed=False), code_range(2, signed=False, narrow=True)
    ((0, 3), (0, 2))
    """
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def quantize(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.float32],
    limits: tuple[int, int],
) -> NDArray[np.float32]:
    """Quantize and dequantize as QONNX's Quant does, in float32, rounding halves to even.

    Args:
        x: float32, any shape.
        scale: float32, broadcasts to x.
        zero_point: float32, broadcasts to x.
        limits: See `code_range`.

    Returns:
        float32 shaped like x, zeros always positive.

    >>> one, zero = np.float32([0.5]), np.float32([0])
    >>> quantize(np.float32([0.5, 0.7, 9.0]), one, zero, (-8, 7)).tolist()  # codes 1, 1, 7
    [0.5, 0.5, 3.5]
    """
    codes = np.round(np.clip(x / scale + zero_point, *limits))
    return np.asarray((codes - zero_point) * scale + np.float32(0), dtype=np.float32)


def most_distinct(values: NDArray[Any], axis: int | None) -> int:
    """Count the distinct values of the slice along `axis` that has most; of all when None.

    >>> most_distinct(np.array([[1, 1, 2], [3, 3, 3]]), 0), most_distinct(np.array([1, 2, 1]), None)
    (2, 2)
    """
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0)
    if values.size == 0:
        return 0
    rows = np.sort(rows.reshape(rows.shape[0], -1), axis=1)
    return int(1 + (rows[:, 1:] != rows[:, :-1]).sum(axis=1).max())


def scale_problem(scale: NDArray[Any] | None, *, signed: bool = False) -> str:
    """Say what is wrong with a scale; empty when it is fine.

    Args:
        scale: None when it is not stored.
        signed: Whether it may be negative, as where batch-norm's sign went into it.

    >>> scale_problem(np.float32([[0.5], [0.25]])), scale_problem(np.float32([0.5, 0]))
    ('', 'a scale of 0.0; allowed: positive and finite')
    """
    if scale is None:
        return "a scale that is not stored; allowed: a constant"
    if sum(size > 1 for size in scale.shape) > 1:
        return f"a scale of shape {scale.shape}; allowed: one per channel of one axis"
    bad = scale[~(np.isfinite(scale) & ((scale != 0) if signed else (scale > 0)))]
    allowed = "finite and not zero" if signed else "positive and finite"
    return f"a scale of {bad.flat[0]}; allowed: {allowed}" if bad.size else ""


@dataclass(frozen=True, slots=True)
class CodesChanged:
    """How many integer codes of one file differ from those of another, see `verify.codes_changed`.

    Attributes:
        weights: Number of integer codes.
        changed: How many differ.
        layers: Share that differs of each stored tensor, by its name.
    """

    weights: int
    changed: int
    layers: Mapping[str, float] = field(default_factory=dict)

    @property
    def unchanged(self) -> float:
        """Share of codes that are equal.

        >>> CodesChanged(weights=4, changed=1).unchanged
        0.75
        """
        return 1 - self.changed / self.weights

    @property
    def most_unchanged(self) -> float:
        """The same where exactly one code differs: with a larger share, nothing has changed."""
        return 1 - 1 / self.weights
