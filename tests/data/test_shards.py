"""Shards: whoever asks to be forgotten is in one of them only, and they are alike."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.data.shards import owners, shards

NOBODY = ""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def index_of(people: NDArray[np.int64], pixels: NDArray[np.int64], labels: NDArray[np.int64]) -> SampleIndex:
    """Samples of people (n,), -1 for unknown ones, with these pixels; a fifth is not trained on."""
    n = len(people)
    return SampleIndex.of(
        ids=[f"img-{i:05}" for i in range(n)],
        digests=[sha(f"pixels {p}") for p in pixels],
        labels=labels,
        splits=np.where(np.arange(n) % 5 < 4, 0, np.arange(n) % 2 + 1).astype(np.int8),
        subjects=[NOBODY if p < 0 else sha(f"person {p}") for p in people],
        class_names=[f"class {k}" for k in range(int(labels.max()) + 1)],
    )


def drawn(seed: int, n: int = 1500) -> SampleIndex:
    """Some people with few and with many samples, strangers, and some pixels that occur twice."""
    rng = np.random.default_rng(seed)
    people = np.where(rng.random(n) < 0.5, -1, rng.integers(0, int(rng.integers(20, 200)), n))
    pixels = np.where(rng.random(n) < 0.1, rng.integers(0, 40, n), np.arange(n) + 1000)
    return index_of(people, pixels, rng.integers(0, int(rng.integers(2, 8)), n))


SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [3, 5])
def test_everybody_is_in_one_shard_and_so_are_strangers_with_the_same_pixels(seed: int, count: int) -> None:
    index = drawn(seed)
    found, training = shards(index, count), index.in_split(SampleSplit.TRAIN)
    assert ((found >= 0) & (found < count) == training).all() and (found[~training] == -1).all()
    for samples in (
        index.subjects,
        [d if s == NOBODY else NOBODY for d, s in zip(*known(index), strict=True)],
    ):
        where: dict[str, set[int]] = {}
        for name, shard in zip(samples, found, strict=True):
            if shard >= 0 and name != NOBODY:
                where.setdefault(name, set()).add(int(shard))
        assert len(where) > 10 and all(len(of) == 1 for of in where.values())


def known(index: SampleIndex) -> tuple[list[str], list[str]]:
    return list(index.digests), list(index.subjects)


@pytest.mark.parametrize("seed", SEEDS)
def test_shards_are_alike_in_size_and_in_classes(seed: int) -> None:
    """Within the largest owner's samples: the greedy choice never leaves a wider gap."""
    index, count = drawn(seed), 4
    found, training = shards(index, count), index.in_split(SampleSplit.TRAIN)
    largest = int(np.unique(owners(index, np.flatnonzero(training)), return_counts=True)[1].max())
    sizes = np.bincount(found[training], minlength=count)
    assert sizes.max() - sizes.min() <= largest + 1
    for label in range(len(index.class_names)):
        parts = np.bincount(found[training & (index.labels == label)], minlength=count)
        assert parts.max() - parts.min() <= 0.35 * parts.mean() + 5


def test_strangers_are_dealt_out_evenly() -> None:
    n = 1000
    index = index_of(np.full(n, -1), np.arange(n), np.arange(n) % 7)
    found = shards(index, 3)
    table = np.array([[(found[index.labels == k] == s).sum() for s in range(3)] for k in range(7)])
    assert table.sum() == 800 and (table.max(axis=1) - table.min(axis=1)).max() <= 1
    assert np.ptp(table.sum(axis=0)) <= 1


def test_the_same_index_has_the_same_shards() -> None:
    assert np.array_equal(shards(drawn(0), 5), shards(drawn(0), 5))


def test_more_shards_than_people_leave_some_empty() -> None:
    index = index_of(np.zeros(10, np.int64), np.arange(10), np.zeros(10, np.int64))
    assert len({*shards(index, 5)[index.in_split(SampleSplit.TRAIN)].tolist()}) == 1


def test_owners_are_people_and_of_strangers_pixels() -> None:
    people, pixels = np.array([1, 1, 2, -1, -1, -1]), np.array([7, 8, 7, 7, 9, 7])
    index = index_of(people, pixels, np.zeros(6, np.int64))
    found = owners(index, np.arange(6)).tolist()
    same = [[a == b for b in found] for a in found]
    groups = [{0, 1}, {2}, {3, 5}, {4}]
    assert same == [[any({a, b} <= g for g in groups) for b in range(6)] for a in range(6)]
    assert len({*owners(index, np.array([0, 3, 5])).tolist()}) == 2


def test_samples_of_several_people_are_in_no_shard() -> None:
    people, n = [sha("person 1"), sha("person 2")], 60
    index = index_of(np.arange(n) % 5, np.arange(n), np.arange(n) % 2)
    shown = [" ".join(people) if i % 6 == 0 else s for i, s in enumerate(index.subjects)]
    index = SampleIndex.of(
        ids=index.ids, digests=index.digests, labels=index.labels, splits=index.splits, subjects=shown,
        class_names=index.class_names,
    )  # fmt: skip
    found, training = shards(index, 3), index.in_split(SampleSplit.TRAIN)
    assert (found[training] == -1).tolist() == [i % 6 == 0 for i in np.flatnonzero(training)]
    for person in people:
        assert len({*found[index.showing([person])].tolist()} - {-1}) == 1
