"""What fulfilling would do, without doing it: nothing is written, and nothing is trained."""

from collections.abc import Mapping
from typing import Final, Literal, NotRequired, TypedDict

import numpy as np

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import RequestError
from qmu_edge.pipeline.near_duplicates import noticed
from qmu_edge.pipeline.passes import passes_of
from qmu_edge.project.project import Project
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.queue.lifecycle import approval, known, look_up, require_answered
from qmu_edge.queue.schedule import Plan, Waiting, closed, places, plan, waits_for
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import Claim, shared_with_others
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import FULFILLED, Outcome, Step

_SHOWN: Final = 100  # retained images that look like forgotten ones


class PreviewedPlan(TypedDict):
    """How requests would be fulfilled. All but `dry_run` is missing where nothing would be done.

    Attributes:
        outcome: Of a request that was fulfilled before; of the others there are then only its `counts`.
        rungs, rungs_forced_by: The methods to try, and why these are not the policy's, or "".
        expected_seconds: What each is expected to take; None where nothing was measured.
        scope, counts: Of the split.
        classes: How many training images of which class would be forgotten.
        share: Of the training images.
        look_alike: Ids of retained images that look like forgotten ones.
        limits: Of the policy, as fractions; or "off".
        verdict: What it could show; None where that is not known before.
    """

    outcome: NotRequired[Outcome | None]
    rungs: NotRequired[list[str]]
    rungs_forced_by: NotRequired[str]
    expected_seconds: NotRequired[dict[str, float | None]]
    scope: NotRequired[str]
    counts: NotRequired[Mapping[str, int] | None]
    classes: NotRequired[dict[str, int]]
    share: NotRequired[float]
    look_alike: NotRequired[list[str]]
    limits: NotRequired[dict[str, float | Literal["off"]]]
    verdict: NotRequired[str | None]
    dry_run: Literal[True]


class Preview(PreviewedPlan):
    """What one request would delete.

    Attributes:
        request: Its id.
        problem: What of it cannot be honoured; None where all can.
        waits_for: What it would wait for, or "".
        shared_with_others: Images with other people on them.
    """

    request: str
    problem: NotRequired[str | None]
    waits_for: NotRequired[str]
    shared_with_others: NotRequired[int]


class PendingPreview(PreviewedPlan):
    """What all open requests together would delete, and which of them wait."""

    requests: list[str]
    waiting: list[Waiting]


def preview_request(project: Project, request: DeletionRequest, method: str | None) -> Preview:
    """What one request would delete, by which method, and what it would wait for.

    Raises:
        RequestError: It cannot be honoured, or is closed.
    """
    ledger, samples = project.ledger, project.samples
    row = known(ledger, request, project.key)
    require_answered(ledger, project.results, samples, request, project.key)
    if row is not None and row.outcome in FULFILLED and not row.is_open:
        counts = project.results.fulfilled_steps(row.request_id)[Step.UNLEARNED].counts
        return {"request": row.request_id, "dry_run": True, "outcome": row.outcome, "counts": counts}
    if row is not None and not row.is_open:
        raise RequestError(closed(row))
    error = None
    resolved = ledger.open_details(Step.RESOLVED).get(request.request_id)
    if row is not None and resolved is not None:
        claim = samples.claim(resolved)
        waits = next(p.waits for p in places(ledger, project.recipe.policy) if p.row == row)
    else:
        found, error = look_up(ledger, project.results, samples.index, request, project.key)
        if found is None:
            raise error or RequestError(f"request {request.request_id}: nothing found")
        claim, waits = found, _would_wait(ledger, project.recipe.policy, request, found)
    passes = passes_of(project.results, project.recipe, method)
    planned = plan(project, [row] if row is not None else [], [claim], method, passes)
    return {
        "request": request.request_id, "problem": str(error) if error else None, "waits_for": waits,
        "shared_with_others": shared_with_others(samples.index, claim),
        **_shown(planned, samples, ledger, project.recipe.policy),
    }  # fmt: skip


def preview_pending(project: Project, method: str | None) -> PendingPreview:
    """The same for all open requests together, as if none had begun in an earlier batch."""
    found = places(project.ledger, project.recipe.policy)
    resolved = project.ledger.open_details(Step.RESOLVED)
    rows = [p.row for p in found if not p.waits]
    claims = [project.samples.claim(resolved[row.request_id]) for row in rows]
    passes = passes_of(project.results, project.recipe, method)
    planned = plan(project, rows, claims, method, passes) if rows else None
    return {
        "requests": [row.request_id for row in rows],
        "waiting": [{"request": p.row.request_id, "waits_for": p.waits} for p in found if p.waits],
        **_shown(planned, project.samples, project.ledger, project.recipe.policy),
    }


def _would_wait(ledger: Ledger, policy: PolicyRecipe, request: DeletionRequest, claim: Claim) -> str:
    images, total = len(claim.forget), max(1, ledger.training_images())
    deleted = ledger.training_images(barred=True)
    return waits_for(
        policy, images / total, (deleted + images) / total,
        partial=claim.partial, approved=approval(request, partial=claim.partial) is not None,
    )  # fmt: skip


def _shown(
    planned: Plan | None, samples: ProjectSamples, ledger: Ledger, policy: PolicyRecipe
) -> PreviewedPlan:
    if planned is None:
        return {"dry_run": True}
    limits = {n: getattr(policy, n) for n in ("approval_above", "approval_above_total", "retrain_above")}
    (split, alike), index = noticed(samples, policy, planned.split), samples.index
    return {
        "rungs": list(planned.rungs), "rungs_forced_by": planned.forced_by,
        "expected_seconds": _seconds(planned), "scope": split.scope,
        "counts": split.counts(), "classes": _by_class(index, split),
        "share": len(split.forget) / max(1, ledger.training_images()),
        "look_alike": [index.ids[i] for i in alike[:_SHOWN].tolist()],
        "limits": limits, "verdict": str(planned.foreseen) if planned.foreseen else None,
        "dry_run": True,
    }  # fmt: skip


def _seconds(planned: Plan) -> dict[str, float | None]:
    """What each rung is expected to take, with everything around it; None where nothing was measured."""
    found = {name: planned.expected.seconds(name) for name in planned.rungs}
    return {name: None if seconds is None else round(seconds, 1) for name, seconds in found.items()}


def _by_class(index: SampleIndex, split: Split) -> dict[str, int]:
    """How many training images of which class would be forgotten."""
    counts = np.bincount(index.labels[split.forget], minlength=len(index.class_names))
    return {index.class_names[k]: int(counts[k]) for k in np.flatnonzero(counts)}
