"""A project without images."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import KEY, KEY_CHECK, STORE, Project, key_check
from qmu_edge.recipe import Recipe
from qmu_edge.store.ledger.ledger import Ledger
from tests.queue.people import SECRET, make_index


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project without images."""
    key = tmp_path / STORE / KEY
    key.parent.mkdir(parents=True)
    key.write_bytes(SECRET)
    with Ledger.create(tmp_path / STORE / "ledger.db") as ledger:
        ledger.write_samples(make_index())
        ledger.set_meta(KEY_CHECK, key_check(SECRET))
        yield Project(tmp_path, Recipe(), ledger, Progress())
