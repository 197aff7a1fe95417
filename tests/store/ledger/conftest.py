"""An empty ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qmu_edge.store.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.db") as ledger:
        yield ledger
