"""Other bit widths, on a network that answers from a table."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from qmu_edge.audit import bits
from qmu_edge.audit.lira import deviations, line_through
from qmu_edge.audit.subject import Known
from qmu_edge.verify.residual import Values
from tests.audit.worlds import Answering, Nothing, known, subject


def test_what_more_bits_bring_back_is_found_at_that_width() -> None:
    there = subject()
    assert isinstance(there.file, Answering) and isinstance(there.original, Answering)
    tables = {8: there.original.table, 4: there.file.table, 2: there.file.table}

    class Requantizing(Nothing):
        def requantized(self, bits: int, asked: Sequence[Known]) -> list[Values]:
            return [tables[bits][of] for of in asked]

    rows = {row.quantity: row for row in bits.run(replace(there, means=Requantizing()))}
    assert tuple(rows) == bits.ATTACK.quantities
    eight, four = (rows[f"area under the curve, {n} bits"].file for n in (8, 4))
    assert eight is not None and four is not None and eight.low is not None and four.low is not None
    assert eight.low > 0.9 and four.low <= 0.5
    assert rows["area under the curve, 2 bits"].file == four


def test_scores_are_calibrated_where_there_are_references() -> None:
    there = subject(n=50)
    scores, unseen = np.arange(50.0), np.arange(50.0) ** 0.5
    assert there.unseen.expected is not None and there.forgotten.expected is not None
    line = line_through(there.unseen.expected, unseen)
    wanted = deviations(scores, line.level + line.slope * there.forgotten.expected, line.deviation)
    assert bits.calibrated(scores, there.forgotten, unseen, there.unseen) == pytest.approx(wanted)
    bare = known(50)
    assert bits.calibrated(scores, bare, unseen, there.unseen) is scores
