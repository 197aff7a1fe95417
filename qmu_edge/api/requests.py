"""The `request` commands as Python functions; part of `qmu_edge.api`, and torch-free like the ledger."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from qmu_edge.io.files import AnyPath, write_new
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import STORE, Project, find, opened
from qmu_edge.project.results import Results
from qmu_edge.queue import lifecycle
from qmu_edge.queue.schedule import RequestStanding, may_retrain, standing
from qmu_edge.recipe import Recipe
from qmu_edge.request.document import load_request, new_request
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow


class RequestList(TypedDict):
    """Requests, in the order in which they were received."""

    requests: list[RequestStanding]


def request_new(
    *,
    subject_ids: Sequence[str] = (),
    sample_ids: Sequence[str] = (),
    class_ids: Sequence[str | int] = (),
    regulation: str = "gdpr",
    requested_by: str | None = None,
    approved_by: str | None = None,
    out: AnyPath | None = None,
) -> dict[str, object]:
    """A valid erasure request; written to `out` when given, which must not exist."""
    document = new_request(
        subject_ids=subject_ids, sample_ids=sample_ids, class_ids=class_ids,
        regulation=regulation, requested_by=requested_by, approved_by_ref=approved_by,
    )  # fmt: skip
    if out is not None:
        write_new(Path(out), json.dumps(document, indent=2).encode() + b"\n", outside=STORE, mode=0o600)
    return document


def request_add(request: AnyPath, project: AnyPath | None = None) -> RequestStanding:
    """Record a deletion request without serving it; the same request again changes nothing.

    Raises:
        RequestError: Nothing or only a part of it is known. It is recorded with its outcome.
    """
    return _changed(project, lambda p: lifecycle.register(p, load_request(Path(request), key=p.ids_key)))


def request_list(project: AnyPath | None = None, *, open_only: bool = False) -> RequestList:
    """All requests, or those that are open, with their dates and what happens next."""
    with opened(find(project), Progress()) as found:
        rows = _standing(found.ledger, found.results, found.recipe)
    return {"requests": [r for r in rows if r["next"]] if open_only else rows}


def request_approve(request_id: str, project: AnyPath | None = None, *, by: str) -> RequestStanding:
    """Let a request that waits for approval be served; `by` is a reference, like a ticket."""
    return _changed(project, lambda p: lifecycle.approve(p.ledger, request_id, by))


def request_withdraw(request_id: str, project: AnyPath | None = None) -> RequestStanding:
    """Close a request because the person took it back; not once its samples are barred."""
    return _changed(project, lambda p: lifecycle.withdraw(p.ledger, request_id))


def request_deny(request_id: str, project: AnyPath | None = None, *, reason: str) -> RequestStanding:
    """Close a request that is not granted, for one of `qmu_edge.queue.lifecycle.DENIALS`."""
    return _changed(project, lambda p: lifecycle.deny(p.ledger, request_id, reason))


def request_extend(request_id: str, project: AnyPath | None = None, *, reason: str) -> RequestStanding:
    """Put the deadline off, once and before it has passed.

    `reason` is one of `qmu_edge.request.deadline.EXTENSIONS`.
    """
    now = datetime.now(UTC)
    return _changed(project, lambda p: lifecycle.extend(p.ledger, request_id, reason, now))


def _changed(folder: AnyPath | None, change: Callable[[Project], RequestRow]) -> RequestStanding:
    with opened(find(folder), Progress()) as project:
        with project.locked():
            row = change(project)
        (shown,) = _standing(project.ledger, project.results, project.recipe, row.request_id)
        return shown


def _standing(
    ledger: Ledger, results: Results, recipe: Recipe, only: str | None = None
) -> list[RequestStanding]:
    exact = may_retrain(results, recipe)
    return standing(ledger, recipe.policy, datetime.now(UTC), only=only, retrain=exact)
