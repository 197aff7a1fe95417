"""Which samples tombstones bar: the deleted ones and their copies, unless these are somebody else's."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.data.tombstones import barred_samples
from tests.request.samples import ROW, TWINS, Row, make_index


def barred(rows: list[Row], *tombstones: tuple[str, str]) -> str:
    index = make_index(rows)
    known = {(name, hashlib.sha256(pixels.encode()).hexdigest()) for name, pixels in tombstones}
    return " ".join(index.ids[i] for i in np.flatnonzero(barred_samples(index, known)))


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ("ana1", "ana1 ana2 nobody test"),  # her other copy goes, and what nobody claims; his stays
        ("bo1", "bo1 nobody test"),
        ("nobody", "nobody test"),  # nobody knows whose it was, and both of them are known: theirs stay
        ("other", "other"),
    ],
)
def test_a_copy_is_barred_unless_it_is_somebody_elses(deleted: str, expected: str) -> None:
    pixels = next(row[1] for row in TWINS if row[0] == deleted)
    assert barred(TWINS, (deleted, pixels)) == expected


def test_the_pixels_of_a_sample_that_is_not_in_the_index_bar_everybody() -> None:
    """Whose it was cannot be known, so it could be the same person under another name."""
    assert barred(TWINS, ("long ago", "p")) == "ana1 ana2 bo1 nobody test"
    assert barred(TWINS, ("other", "p")) == "ana1 ana2 bo1 nobody test other"  # one id, other pixels
    assert barred(TWINS, ("long ago", "x")) == ""


@given(st.lists(ROW, min_size=1, max_size=12), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_more_tombstones_never_bar_less_and_what_is_barred_stays_so(
    drawn: list[tuple[str, int, str, str]], first: set[int], second: set[int]
) -> None:
    index = make_index([(str(i), *row) for i, row in enumerate(drawn)])

    def tombstones(positions: set[int]) -> set[tuple[str, str]]:
        return {(index.ids[i], index.digests[i]) for i in positions if i < len(drawn)}

    before, after = (barred_samples(index, tombstones(s)) for s in (first, first | second))
    assert not (before & ~after).any()
    again = barred_samples(index, tombstones(set(np.flatnonzero(after).tolist())))
    np.testing.assert_array_equal(again, after)
    elsewhere = {("long ago", digest) for digest in index.digests[:1]}
    assert not (after & ~barred_samples(index, tombstones(first | second) | elsewhere)).any()
