"""A project of ten people without images, and what is asked of it."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from qmu_edge.data.index import SampleIndex
from qmu_edge.data.subjects import pseudonym
from qmu_edge.project.project import Project
from qmu_edge.queue.schedule import batch_name, deleted_share, places, rungs
from qmu_edge.request.document import DeletionRequest, new_request, parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.request.split import EmptiedClasses, Split, divide, emptied_classes
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import State, Step

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)


SECRET = b"k" * 32


PEOPLE = 10  # of ten images each: eight to train on, one for validation, one to test
NO_CLASSES = EmptiedClasses((), others=True)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_index() -> SampleIndex:
    n = 10 * PEOPLE
    return SampleIndex.of(
        ids=tuple(f"img-{i:03}" for i in range(n)),
        digests=tuple(sha(f"pixels {i}") for i in range(n)),
        labels=np.arange(n, dtype=np.int64) % 2,
        splits=np.array([max(0, i % 10 - 7) for i in range(n)], np.int8),
        subjects=tuple(pseudonym(SECRET, f"person-{i // 10}") for i in range(n)),
        class_names=("cat", "dog"),
    )


def ask(*subjects: str, **fields: Any) -> DeletionRequest:
    document = new_request(subject_ids=[f"person-{s}" for s in subjects], now=NOW, **fields)
    return parse_request(json.dumps(document).encode(), source="r.json", now=NOW)


def split_of(project: Project, *rows: Any) -> Split:
    resolved = project.ledger.open_details(Step.RESOLVED)
    return divide(project.samples.index, [project.samples.claim(resolved[row.request_id]) for row in rows])


def change(project: Project, **policy: Any) -> Project:
    recipe = project.recipe.model_copy(update={"policy": project.recipe.policy.model_copy(update=policy)})
    return Project(project.root, recipe, project.ledger, project.progress)


def references(project: Project, trained: str) -> Project:
    changed = project.recipe.references.model_copy(update={"trained": trained})
    recipe = project.recipe.model_copy(update={"references": changed})
    return Project(project.root, recipe, project.ledger, project.progress)


def bar(project: Project, *rows: Any) -> None:
    """What serving does first."""
    resolved = project.ledger.open_details(Step.RESOLVED)
    with project.ledger.change():
        for row in rows:
            stones = tombstones_of(project.samples.index, project.samples.claim(resolved[row.request_id]))
            project.ledger.start_step(row.request_id, "", "tombstoned")
            project.ledger.add_tombstones(row.request_id, *zip(*stones, strict=True))
            project.ledger.finish_step(row.request_id, "", "tombstoned", {"batch": batch_name(rows)})
            project.ledger.set_outcome(row.request_id, State.UNLEARNING, None)


def waits(project: Project) -> dict[str, str]:
    return {p.row.request_id: p.waits for p in places(project.ledger, project.recipe.policy)}


def rungs_for(
    project: Project, rows: Sequence[RequestRow], split: Split, asked: str | None
) -> tuple[tuple[str, ...], str]:
    """What `plan` chooses for a split that is given."""
    emptied = emptied_classes(project.samples.index, split, project.samples.barred())
    share = deleted_share(project.ledger, project.results, rows, split)
    return rungs(project.recipe.policy, asked, emptied, share)
