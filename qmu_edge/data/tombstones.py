"""Deleted samples, by id and by pixels: which samples of an index are barred."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex

Stones = Collection[tuple[str, str]]  # id and content digest of each barred sample


def barred_samples(index: SampleIndex, stones: Stones) -> NDArray[np.bool_]:
    """Which samples (n,) must never be trained on: the re-ingestion guard.

    Barred is what was deleted by id, and every other sample with the pixels of a deleted one, unless
    it belongs to a known person, all of the deleted ones are in this index, and none of them is that
    person's. More stones never bar less.
    """
    if not stones:
        return np.zeros(len(index.ids), np.bool_)
    dead = index.ids.mask({name for name, _ in stones})
    deleted = np.flatnonzero(dead).tolist()
    here = {(index.ids[i], index.digests[i]) for i in deleted}
    elsewhere = {digest for name, digest in stones if (name, digest) not in here}
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for i in deleted:
        owners[index.digests[i]].add(index.subjects[i])
    alike = index.digests.find({digest for _, digest in stones})
    for i in alike[~dead[alike]].tolist():
        owner, digest = index.subjects[i], index.digests[i]
        dead[i] = not owner or digest in elsewhere or owner in owners[digest]
    return dead


def _stones(index: SampleIndex, positions: NDArray[np.int64]) -> list[tuple[str, str]]:
    return [(index.ids[i], index.digests[i]) for i in positions.tolist()]
