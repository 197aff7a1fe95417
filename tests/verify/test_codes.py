"""Codes and grids, against the obvious way to compute them."""

import numpy as np
import pytest

from qmu_edge.verify.codes import code_range, most_distinct, quantize, scale_problem


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_a_width_has_as_many_codes_as_its_bits_hold(bits: int, signed: bool) -> None:
    low, high = code_range(bits, signed=signed)
    assert high - low + 1 == 2**bits and (low == 0) is not signed
    narrow = code_range(bits, signed=signed, narrow=True)
    assert narrow == ((-high, high) if signed else (0, high - 1))


def test_quantizing_rounds_half_to_even_clips_and_has_no_negative_zero() -> None:
    scale, zero = np.array([0.5], np.float32), np.array([1], np.float32)
    found = quantize(np.array([0.25, 0.75, -0.1, 99, -99], np.float32), scale, zero, (-8, 7))
    assert found.tolist() == [0.5, 0.5, 0.0, 3.0, -4.5]  # codes 2 (from 1.5), 2 (from 2.5), 1, 7, -8
    small = quantize(np.array([-0.1], np.float32), scale, np.zeros(1, np.float32), (-8, 7))
    assert small.tolist() == [0.0] and not np.signbit(small).any()


@pytest.mark.parametrize(
    ("scale", "signed", "problem"),
    [
        (None, True, "not stored"),
        (np.ones((2, 2), np.float32), True, "one per channel of one axis"),
        (np.array([-0.5], np.float32), False, "positive and finite"),
        (np.array([-0.5], np.float32), True, ""),
        (np.array([0.0], np.float32), True, "finite and not zero"),
        (np.array([1, np.inf], np.float32), True, "a scale of inf"),
        (np.ones((1, 4, 1), np.float32), False, ""),
    ],
)
def test_scales_that_could_hold_weights_are_named(
    scale: np.ndarray | None, signed: bool, problem: str
) -> None:
    found = scale_problem(scale, signed=signed)
    assert problem in found and bool(found) is bool(problem)


def test_most_distinct_equals_the_obvious() -> None:
    values = np.random.default_rng(0).integers(-3, 4, (5, 4, 3, 3)).astype(np.int8)
    for axis in range(4):
        expected = max(np.unique(each).size for each in np.moveaxis(values, axis, 0))
        assert most_distinct(values, axis) == expected
    assert most_distinct(values, None) == np.unique(values).size
