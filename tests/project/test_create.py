"""A dataset that is registered again: what was deleted once is refused, whatever it is called now."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmu_edge import api
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.queue import lifecycle
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.store.ledger.states import Step


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten pictures of each of two classes to train on, two to test."""
    random = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    return tmp_path / "data"


def init(folder: Path, dataset: Path, previous: Path | None = None) -> Path:
    api.init(folder, dataset=str(dataset), previous=previous)
    return folder


def delete(root: Path, sample: str) -> None:
    """What the ledger holds once a request has been served."""
    with opened(root, Progress()) as project:
        document = f'{{"sample_ids": ["{sample}"]}}'.encode()
        row = lifecycle.register(project, parse_request(document, source="r", key=project.key))
        found = project.samples.claim(project.ledger.open_details(Step.RESOLVED)[row.request_id])
        ids, digests = zip(*tombstones_of(project.samples.index, found), strict=True)
        project.ledger.add_tombstones(row.request_id, ids, digests)


def test_what_was_deleted_is_refused_under_any_name_and_in_any_later_project(
    dataset: Path, tmp_path: Path
) -> None:
    first = init(tmp_path / "first", dataset)
    with opened(first, Progress()) as project:
        sample = project.samples.index.ids[project.samples.trainable()[0]]
    delete(first, sample)
    with pytest.raises(ConfigError, match=f"1 of 24 samples were deleted in .*first is {sample}"):
        init(tmp_path / "second", dataset, first)
    assert not list((tmp_path / "second").iterdir())

    picture = Image.open(dataset / sample)
    picture.load()
    (dataset / sample).unlink()
    picture.save(dataset / "train/dog/renamed.bmp")  # re-encoded, renamed, and of another class
    with pytest.raises(ConfigError, match=r"1 of 24 .*renamed"):
        init(tmp_path / "second", dataset, first)
    (dataset / "train/dog/renamed.bmp").unlink()
    second = init(tmp_path / "second", dataset, first)
    with opened(second, Progress()) as project:
        assert project.ledger.tombstones() == {sample} and project.ledger.problems() == []
        assert not project.samples.barred().any() and len(project.samples.index.ids) == 23

    picture.save(dataset / "train/cat/back.png")
    for folder in (first, second):
        with pytest.raises(ConfigError, match=r"1 of 24 .*back"):
            init(tmp_path / "third", dataset, folder)
    init(tmp_path / "third", dataset)  # who names no earlier project is not held back: it is not known here


def test_only_a_project_can_be_the_previous_one(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no project at"):
        init(tmp_path / "second", dataset, tmp_path)
