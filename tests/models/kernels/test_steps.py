"""What a stored step counts as, against a search through all numbers of that form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.models.kernels.steps import SMALLEST_STEP, short_mantissa, step_value


@given(st.floats(2**-10, 2**10, width=32), st.integers(1, 4))
def test_a_short_mantissa_is_the_nearest_of_all(value: float, bits: int) -> None:
    allowed = [m * 2.0 ** (e - bits) for e in range(-11, 13) for m in range(2 ** (bits - 1), 2**bits + 1)]
    found = short_mantissa(torch.tensor([value, -value]), bits)
    assert float(found[0]) in allowed
    assert abs(float(found[0]) - value) == min(abs(a - value) for a in allowed)
    assert float(found[1]) == -float(found[0])


@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_step_is_never_below_the_smallest_and_comes_back_from_below_zero(power_of_two: bool) -> None:
    step = torch.tensor([0.0, -1e-12, -0.3, 0.3], requires_grad=True)
    value = step_value(step, SMALLEST_STEP, power_of_two=power_of_two)
    assert bool((value > 0).all()) and value[2] == value[3]
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert step.grad is not None
    assert step.grad[2:].tolist() == [-1.0, 1.0]  # a power of two passes it straight
    assert step.grad[:2].tolist() == [0.0, 0.0]


def test_a_step_that_was_never_set_stays_nan() -> None:
    for power_of_two in (False, True):
        assert step_value(torch.tensor([torch.nan]), 1e-8, power_of_two=power_of_two).isnan().all()
