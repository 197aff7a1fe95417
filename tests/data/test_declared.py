"""What a network of elsewhere was trained on: what is declared is trained on, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from qmu_edge.data.declared import REGISTERED, declared_in, with_declared
from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import ConfigError
from tests.data.test_shards import index_of

N = 60
INDEX = index_of(np.full(N, -1), np.where(np.arange(N) == 59, 0, np.arange(N)), np.arange(N) % 2)


def test_the_registered_images_are_all_but_the_test_images() -> None:
    found = with_declared(INDEX, declared_in(REGISTERED, INDEX))
    was_test = INDEX.in_split(SampleSplit.TEST)
    copies = INDEX.digests.mask({INDEX.digests[i] for i in np.flatnonzero(~was_test).tolist()})
    assert (found.in_split(SampleSplit.TRAIN) == (~was_test | copies)).all()
    # Nothing is left for validation, so a third of the test images of each class is.
    validation = found.in_split(SampleSplit.VALIDATION)
    assert validation.any() and (was_test[validation]).all()
    for label in (0, 1):
        pool = (was_test & ~copies & (INDEX.labels == label)).sum()
        assert (validation & (INDEX.labels == label)).sum() == round(pool / 3)


def test_a_list_declares_what_it_names_and_its_copies(tmp_path: Path) -> None:
    path = tmp_path / "seen.txt"
    path.write_text("img-00000\n\n img-00001 \nimg-00009\n")
    found = with_declared(INDEX, declared_in(str(path), INDEX))
    assert np.flatnonzero(found.in_split(SampleSplit.TRAIN)).tolist() == [0, 1, 9, 59]
    tests = INDEX.in_split(SampleSplit.TEST)
    assert (found.in_split(SampleSplit.TEST) == (tests & ~found.in_split(SampleSplit.TRAIN))).all()
    again = with_declared(found, declared_in(str(path), found))
    assert (again.splits == found.splits).all() and again.digest() == found.digest() != INDEX.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"img-00000\nimg-1\n",
            "1 of 2 lines are no samples of this project, first 'img-1'; allowed are ids",
        ),
        (b"\n", "names no sample"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_list_of_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "seen.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        declared_in(str(path), INDEX)
    with pytest.raises(ConfigError, match="no such file"):
        declared_in("registred", INDEX)
