"""Disjoint shards of the training samples, so that whoever asks to be forgotten is in one of them only.

A person's samples stay together, and so do samples with the same pixels where nobody knows whose they are.
Samples of several people are in none: a shard would know somebody whose other samples are elsewhere.
Shards are alike in size and, as far as people allow, in classes.
"""

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit


def owners(index: SampleIndex, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whose the samples at these positions (m,) are, as numbers (m,).

    Of unknown people there is a number for each image of other pixels; of several people the first counts.
    """
    subjects, pixels = index.subjects.raw[positions], index.digests.raw[positions]
    known = subjects.any(axis=1, keepdims=True)
    tagged = np.concatenate([known.astype(np.uint8), np.where(known, subjects, pixels)], axis=1)
    keys = np.ascontiguousarray(tagged).view(f"V{tagged.shape[1]}").reshape(-1)
    return np.unique(keys, return_inverse=True)[1].reshape(-1).astype(np.int64)


def shards(index: SampleIndex, count: int) -> NDArray[np.int64]:
    """The shard of each training sample (n,), 0 to `count` - 1; -1 for others and those of several people."""
    alone_in_it = index.in_split(SampleSplit.TRAIN)
    alone_in_it[list(index.others)] = False
    training = np.flatnonzero(alone_in_it)
    owner, sizes = np.unique(owners(index, training), return_inverse=True, return_counts=True)[1:]
    labels = index.labels[training]
    alone = sizes[owner] == 1
    chosen = np.empty(len(training), np.int64)
    loads = np.zeros((count, len(index.class_names) + 1), np.int64)  # by class, and of all
    members = np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    for one in np.argsort(-sizes, kind="stable")[: int((sizes > 1).sum())]:
        own = members[one]
        classes, parts = np.unique(labels[own], return_counts=True)
        most = classes[parts.argmax()]
        where = np.lexsort((loads[:, most], loads[:, -1]))[0]
        chosen[own] = where
        loads[where, classes] += parts
        loads[where, -1] += sizes[one]
    chosen[alone] = _dealt(labels[alone], count)
    found = np.full(len(index.ids), -1, np.int64)
    found[training] = chosen
    return found


def _dealt(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The samples of each class dealt out to `count` shards in turn, (m,).

    >>> _dealt(np.array([0, 0, 1, 0, 1]), 2).tolist()
    [0, 1, 1, 0, 0]
    """
    dealt = np.empty(len(labels), np.int64)
    order = np.argsort(labels, kind="stable")
    dealt[order] = np.arange(len(labels)) % count
    return dealt
