"""Tombstones: the samples that were deleted, by id and by pixels, and which samples of an index they bar."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex
from qmu_edge.io.digest import Sha256

Tombstones = Collection[tuple[str, str]]
"""Id and content digest of each deleted sample."""


def barred_samples(index: SampleIndex, tombstones: Tombstones) -> NDArray[np.bool_]:
    """Which samples (n,) must never be trained on: the re-ingestion guard.

    Barred is what was deleted by id, and every other sample with the pixels of a deleted one, unless
    it belongs to known people, all of the deleted ones are in this index, and none of them is one of
    these people's. What is barred counts as deleted there: a copy that shows two people is as much the one's
    as the other's. More tombstones never bar less.
    """
    if not tombstones:
        return np.zeros(len(index.ids), np.bool_)
    barred = index.ids.mask({name for name, _ in tombstones})
    deleted = np.flatnonzero(barred).tolist()
    here = {(index.ids[i], index.digests[i]) for i in deleted}
    elsewhere = {digest for name, digest in tombstones if (name, digest) not in here}
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for i in deleted:
        owners[index.digests[i]] |= index.people(i)
    alike = index.digests.find({digest for _, digest in tombstones})
    found = alike[~barred[alike]].tolist()
    while found:  # until nobody comes in with somebody else: as a rule twice
        for i in found:
            people, digest = index.people(i), index.digests[i]
            barred[i] = not people or digest in elsewhere or not people.isdisjoint(owners[digest])
        for i in (gone := [i for i in found if barred[i]]):
            owners[index.digests[i]] |= index.people(i)
        found = [i for i in found if not barred[i]] if gone else []
    return barred


def tombstones_at(index: SampleIndex, positions: NDArray[np.int64]) -> list[tuple[str, Sha256]]:
    """Id and content digest of the samples at some positions (m,)."""
    return [(index.ids[i], Sha256(index.digests[i])) for i in positions.tolist()]
