"""Whether others lost privacy."""

from dataclasses import replace

from qmu_edge.audit import retain
from tests.audit.worlds import Answering, subject


def test_those_who_stay_are_found_where_the_file_knows_them_better() -> None:
    there = subject(known_before=1.0)
    assert isinstance(there.original, Answering)
    surer = {of: s + 2.0 * (of is there.retained) for of, s in there.original.table.items()}
    area, *_ = retain.run(replace(there, file=Answering(surer)))
    assert area.original is not None and area.file is not None and area.unknowing is None
    assert area.file.low is not None and area.original.high is not None
    assert area.file.low > area.original.high
