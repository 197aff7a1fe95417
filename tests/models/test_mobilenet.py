"""Channels of narrower networks."""

from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.models.mobilenet import channels


@given(st.sampled_from([16, 24, 32, 64, 96, 160, 320, 1280]), st.floats(0.05, 2.0))
def test_channels_are_the_nearest_multiple_of_eight_that_loses_no_tenth(base: int, width: float) -> None:
    found, wanted = channels(base, width), base * width
    allowed = [n for n in range(8, 4096, 8) if n >= 0.9 * wanted]
    assert found in allowed
    assert abs(found - wanted) <= min(abs(n - wanted) for n in allowed) + 1e-9
