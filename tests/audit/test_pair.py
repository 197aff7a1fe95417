"""What old and new file give away together."""

import numpy as np

from qmu_edge.audit import pair
from tests.audit.worlds import subject


def test_what_fell_is_found_though_the_new_file_knows_nothing() -> None:
    """Also of an exactly retrained file: the pair gives the deletion away."""
    rows = {row.quantity: row for row in pair.run(subject(known_after=0.0))}
    assert set(rows) == set(pair.ATTACK.quantities) and len(rows) == 6
    for word in pair.AGAINST:
        row = rows[f"area under the curve against {word}"]
        assert row.original is None and row.unknowing is None
        assert row.file is not None and row.file.low is not None and row.file.low > 0.9


def test_where_nothing_was_done_nothing_is_found() -> None:
    rows = {row.quantity: row for row in pair.run(subject(known_after=3.0))}
    found = rows["area under the curve against unseen"].file
    assert found is not None and found.low is not None and found.high is not None
    assert found.low <= 0.5 <= found.high


def test_the_fall_is_the_difference() -> None:
    assert pair.fall(np.array([2.0]), np.array([5.0])).tolist() == [-3.0]
