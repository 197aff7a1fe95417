"""A small index with the pixels of one person under another's name, and requests for its samples."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex
from qmu_edge.data.subjects import pseudonym
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import resolve
from qmu_edge.request.split import Split, divide

Row = tuple[str, str, int, str, str]  # id, pixels, class, split, subjects with a space between two
KEY = b"key"
ROWS: list[Row] = [
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


def make_index(rows: list[Row], class_names: tuple[str, ...] = ("cat", "dog", "unused")) -> SampleIndex:
    ids, pixels, labels, splits, subjects = zip(*rows, strict=True)
    return SampleIndex.of(
        ids=ids,
        digests=tuple(hashlib.sha256(p.encode()).hexdigest() for p in pixels),
        labels=np.array(labels),
        splits=np.array([SAMPLE_SPLITS.index(s) for s in splits], np.int8),
        subjects=tuple(" ".join(pseudonym(KEY, one) for one in s.split()) for s in subjects),
        class_names=class_names,
    )


INDEX = make_index(ROWS)


def ask(form: Literal["opendsr", "research"] = "research", **fields: Any) -> DeletionRequest:
    lists: dict[str, Any] = {name: tuple(value) for name, value in fields.items()}
    now = datetime(2026, 11, 3, tzinfo=UTC)
    return DeletionRequest(request_id="r-1", form=form, received_time=now, body=b"{}", **lists)


def split_of(index: SampleIndex, request: DeletionRequest, *, key: bytes, tombstoned: Any = ()) -> Split:
    """The split of one request after others have deleted these ids."""
    tombstones = {(i, d) for i, d in zip(index.ids, index.digests, strict=True) if i in set(tombstoned)}
    return divide(index, [resolve(index, request, barred=tombstones, key=key)], barred=tombstones)


def names(split: Split) -> dict[str, str]:
    """Every set of a split as the ids in it."""
    sets = ("forget", "retain", "validation", "test", "also_erased")
    return {name: " ".join(INDEX.ids[i] for i in getattr(split, name)) for name in sets}


TWINS: list[Row] = [
    ("ana1", "p", 0, "train", "ana"),
    ("ana2", "p", 1, "train", "ana"),
    ("bo1", "p", 0, "train", "bo"),
    ("nobody", "p", 1, "train", ""),
    ("test", "p", 1, "test", ""),
    ("other", "q", 0, "train", ""),
]


ROW = st.tuples(
    st.sampled_from(["p", "q", "r", "s"]),
    st.integers(0, 1),
    st.sampled_from(SAMPLE_SPLITS),
    st.sampled_from(["", "ana", "bo", "ana bo"]),
)
