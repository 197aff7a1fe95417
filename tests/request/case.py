"""A small sample index, requests about it, and the obvious slow rule of what is barred."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex, pseudonym
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import resolve
from qmu_edge.request.split import Split, divide

KEY = b"key"
# id, pixels, class, split, subject
ROWS = [
    ("t0", "p0", 0, "train", "ana"),
    ("t1", "p1", 0, "train", ""),
    ("t2", "p0", 1, "train", "bo"),  # the pixels of t0, but of another person
    ("t3", "p3", 1, "train", "bo"),
    ("v0", "p4", 0, "validation", "ana"),
    ("v1", "p5", 1, "validation", ""),
    ("e0", "p6", 0, "test", ""),
    ("e1", "p7", 1, "test", "ana"),
    ("e2", "p8", 1, "test", "eve"),
]


def make_index(rows: list[tuple[str, str, int, str, str]]) -> SampleIndex:
    ids, pixels, labels, splits, subjects = zip(*rows, strict=True)
    return SampleIndex.of(
        ids=ids,
        digests=tuple(hashlib.sha256(p.encode()).hexdigest() for p in pixels),
        labels=np.array(labels),
        splits=np.array([SAMPLE_SPLITS.index(s) for s in splits], np.int8),
        subjects=tuple(pseudonym(KEY, s) if s else "" for s in subjects),
        class_names=("cat", "dog", "unused"),
    )


INDEX = make_index(ROWS)


def ask(form: Literal["opendsr", "research"] = "research", **fields: Any) -> DeletionRequest:
    lists: dict[str, Any] = {name: tuple(value) for name, value in fields.items()}
    now = datetime(2026, 11, 3, tzinfo=UTC)
    return DeletionRequest(request_id="r-1", form=form, received_time=now, body=b"{}", **lists)


def split_of(index: SampleIndex, request: DeletionRequest, *, key: bytes, tombstoned: Any = ()) -> Split:
    """The split of one request after others have deleted these ids."""
    stones = {(i, d) for i, d in zip(index.ids, index.digests, strict=True) if i in set(tombstoned)}
    return divide(index, [resolve(index, request, barred=stones, key=key)], barred=stones)


def names(split: Split) -> dict[str, str]:
    """Every part of a split as the ids in it."""
    parts = ("forget", "retain", "validation", "test", "also_erased")
    return {part: " ".join(INDEX.ids[i] for i in getattr(split, part)) for part in parts}


ROW = st.tuples(
    st.sampled_from(["p", "q", "r", "s"]),
    st.integers(0, 1),
    st.sampled_from(SAMPLE_SPLITS),
    st.sampled_from(["", "ana", "bo"]),
)


Row = tuple[str, str, int, str, str]


def slow_barred(rows: list[Row], dead: set[str]) -> set[str]:
    """The re-ingestion guard, one sample at a time."""
    barred = set(dead)
    for name, pixels, _, _, subject in rows:
        owners = [row[4] for row in rows if row[0] in dead and row[1] == pixels]
        if owners and (subject == "" or subject in owners):
            barred.add(name)
    return barred
