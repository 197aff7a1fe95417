"""The sample index in the ledger: as it was, and written once."""

import numpy as np
import pytest

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


def test_the_index_is_written_once(ledger: Ledger) -> None:
    ledger.write_samples(make_index())
    head = ledger.head()
    ledger.write_samples(make_index())
    assert ledger.head() == head
    with pytest.raises(LedgerError, match="other samples"):
        ledger.write_samples(make_index(5))
