"""The sample index in the ledger: as it was, and written once."""

import numpy as np
import pytest

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import LedgerError
from qmu_edge.store.ledger.ledger import Ledger
from tests.store.ledger.contents import make_index


def test_the_index_comes_back_as_it_was(ledger: Ledger) -> None:
    index = make_index()
    assert not ledger.has_samples()
    with pytest.raises(LedgerError, match="no sample index"):
        ledger.read_samples()
    ledger.write_samples(index)
    back = ledger.read_samples()
    assert ledger.has_samples()
    for name in ("ids", "digests", "subjects", "class_names"):
        assert list(getattr(back, name)) == list(getattr(index, name))
    for name in ("labels", "splits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(index, name), strict=True)


def test_several_people_in_a_sample_come_back_and_taking_one_away_is_noticed(ledger: Ledger) -> None:
    one, two = "1" * 64, "2" * 64
    index = SampleIndex.of(
        ids=["a", "b"], digests=[one, two], labels=np.zeros(2, np.int64), splits=np.zeros(2, np.int8),
        subjects=[f"{one} {two}", two], class_names=["cat"],
    )  # fmt: skip
    ledger.write_samples(index)
    assert [ledger.read_samples().people(i) for i in range(2)] == [{one, two}, {two}]
    with ledger.change() as db:
        db.execute("UPDATE samples SET subject = ? WHERE position = 0", (one,))
    with pytest.raises(LedgerError, match="a sample index other than"):
        ledger.read_samples()


def test_the_index_is_written_once(ledger: Ledger) -> None:
    ledger.write_samples(make_index())
    head = ledger.head()
    ledger.write_samples(make_index())
    assert ledger.head() == head
    with pytest.raises(LedgerError, match="other samples"):
        ledger.write_samples(make_index(5))
