"""Requests from the document to the receipt: one with its file, or all that are open together.

    received    understood, its digest recorded                                  qmu_edge.queue.lifecycle
    resolved    the samples that it names found and stored                       qmu_edge.queue.lifecycle
    tombstoned  they can never be trained on again; a whole batch in one transaction
    unlearned, requantized, exported, verified                                   qmu_edge.pipeline.unlearn_run
    receipted   a receipt for each request, and everything switched to, in one transaction

A request that cannot be served is recorded and does not hold up the others.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final

from qmu_edge.errors import ExportError, RequestError, UnlearnError, VerificationFailed
from qmu_edge.pipeline.inputs import load_checkpoint
from qmu_edge.pipeline.ladder import Climb, Effort, climb
from qmu_edge.pipeline.make_receipt import make_receipt
from qmu_edge.pipeline.unlearn_run import plain, served_steps, thresholds_of
from qmu_edge.project.checklist import derived_artefacts_of
from qmu_edge.project.project import Project
from qmu_edge.project.publish import LINK, RELEASES, publish_current
from qmu_edge.queue.lifecycle import SERVED, register, require
from qmu_edge.queue.schedule import EXACT, batch_name, batches, closed, places, rungs_for
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import Claim, stones_of
from qmu_edge.request.split import divide
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.unlearn.registry import METHODS, require_known

_COSTS: Final = ("seconds", "peak_mb", "spent")
# What stops one batch and not the next.
_ONE_BATCH: Final = (RequestError, UnlearnError, ExportError, VerificationFailed)


def serve(project: Project, request: DeletionRequest, effort: Effort) -> dict[str, Any]:
    """Serve one request from receipt to release, with its batch if it has begun in one.

    Args:
        project: Open; this function takes the store's lock.
        request: Parsed.
        effort: Where, by what method, and for how long.

    Returns:
        Digests, report, verdict, and what each step cost.

    Raises:
        RequestError: It cannot be honoured, waits for approval, or is closed.
        VerificationFailed: A threshold is not met; nothing was released.
        QmuEdgeError: Any step's own error.
    """
    with project.held():
        _require_ready(project, effort)
        row = register(project, request)
        if row.is_open:
            waits = next(p.waits for p in places(project.ledger, project.recipe.policy) if p.row == row)
            if waits:
                raise RequestError(f"request {row.request_id}: waits for {waits}")
            (batch,) = batches(project.ledger, [row])
            if row.request_id not in [r.request_id for r in _serve(project, batch, effort)]:
                raise RequestError(f"request {row.request_id}: already deleted: all samples it names")
        elif row.outcome not in SERVED:
            raise RequestError(closed(row))
        publish_current(project)
        return _result(project, [row.request_id])


def serve_pending(project: Project, effort: Effort) -> dict[str, Any]:
    """Serve all open requests that do not wait for a person: one run for those that have not begun.

    Returns:
        `batches`: a result each; `failed`: the requests of a batch and its error; `waiting`: requests
        and what they wait for; `closed`: requests of which others had deleted everything meanwhile.
    """
    with project.held():
        _require_ready(project, effort)
        found = places(project.ledger, project.recipe.policy)
        chosen = [p.row for p in found if not p.waits]
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        told: set[str] = set()
        for batch in batches(project.ledger, chosen):
            ids = [row.request_id for row in batch]
            try:
                ids = [row.request_id for row in _serve(project, batch, effort)]
                done += [_result(project, ids)] if ids else []
            except _ONE_BATCH as error:
                failed.append({"requests": ids, "error": str(error), "exit_code": error.exit_code})
            told |= set(ids)
        publish_current(project)
        rest = [require(project.ledger, row.request_id) for row in chosen if row.request_id not in told]
        waits = {p.row.request_id: p.waits for p in found if p.waits}
        waits |= {row.request_id: "the request that deletes the same samples" for row in rest if row.is_open}
        return {
            "batches": done, "failed": failed,
            "waiting": [{"request": i, "waits_for": what} for i, what in waits.items()],
            "closed": [row.request_id for row in rest if not row.is_open],
        }  # fmt: skip


def _require_ready(project: Project, effort: Effort) -> None:
    """Check what every run needs before any request is recorded."""
    recipe = project.recipe
    require_known((effort.method,) if effort.method else recipe.policy.rungs, recipe)
    if all(limit is None for limit in astuple(thresholds_of(project))):
        raise VerificationFailed("the policy sets no threshold: nothing could be verified")
    load_checkpoint(project, project.current("checkpoint"))
    _ = project.images


def _serve(project: Project, batch: Sequence[RequestRow], effort: Effort) -> Sequence[RequestRow]:
    """Serve a batch and return it, without the requests of which others have deleted everything."""
    batch, claims = _still_there(project, batch)
    if not batch:
        return batch
    ids = [row.request_id for row in batch]
    barred, held = project.ledger.barred(besides=ids), project.claimed(besides=ids)
    split = divide(project.index, claims, barred=barred, held=held)
    names, why = rungs_for(project, batch, split, effort.method)
    if why:
        project.progress.note(f"{names[0]}: {why}")
    _bar(project, batch, claims)
    _receipts(climb(project, batch, split, names, effort), claims)
    return batch


def _still_there(
    project: Project, batch: Sequence[RequestRow]
) -> tuple[Sequence[RequestRow], Sequence[Claim]]:
    ledger = project.ledger
    resolved, begun = ledger.open_details("resolved"), ledger.open_details("tombstoned")
    claims = {row.request_id: project.claim(resolved[row.request_id]) for row in batch}
    dead = project.barred(besides=claims.keys())
    gone = [row for row in batch if dead[claims[row.request_id].samples].all()]
    if gone and not begun.keys() - claims.keys():  # else it is barred by another, but not yet forgotten
        with ledger.change():
            for row in gone:
                ledger.set_outcome(row.request_id, "completed", "denied", "already_deleted")
    kept = [row for row in batch if row not in gone]
    return kept, [claims[row.request_id] for row in kept]


def _bar(project: Project, batch: Sequence[RequestRow], claims: Sequence[Claim]) -> None:
    ledger = project.ledger
    if batch[0].request_id in ledger.open_details("tombstoned"):
        return
    detail = {"batch": batch_name(batch)}
    with ledger.change():
        for row, claim in zip(batch, claims, strict=True):
            ledger.start_step(row.request_id, "", "tombstoned")
            ids, digests = zip(*stones_of(project.index, claim), strict=True)
            count = ledger.add_tombstones(row.request_id, ids, digests)
            ledger.finish_step(row.request_id, "", "tombstoned", {**detail, "count": count})
            ledger.set_outcome(row.request_id, "unlearning", None)


def _receipts(climbed: Climb, claims: Sequence[Claim]) -> None:
    """Write a receipt for each request; switch to the release, and to all of them, at once."""
    run, release = climbed.run, climbed.release
    project, ledger, made = run.project, run.project.ledger, []
    category = METHODS[run.method].category
    verified = ledger.step(run.rows[0].request_id, run.name, "verified")
    stated: dict[str, Any] = {
        "before": run.before, "release": release, "report": climbed.report, "rungs": climbed.tried,
        "completed": (verified.finished if verified else None) or "",
        "split": run.split, "batch": {"requests": len(run.rows), "forget": len(run.split.forget)},
        "method": {
            "name": run.method, "category": category, "parameters": plain(run.params), "seed": run.seed,
        },
    }  # fmt: skip

    def write() -> dict[str, Any]:
        previous = ledger.current("receipt")
        lists = derived_artefacts_of(project, [row.request_id for row in run.rows])
        for row, claim in zip(run.rows, claims, strict=True):
            artefacts = lists[row.request_id]
            made.append(
                make_receipt(project, row=row, claim=claim, artefacts=artefacts, previous=previous, **stated)
            )
            previous = made[-1][0]
        return {"receipts": len(made)}

    def switch(found: dict[str, Any]) -> None:
        checkpoint = json.loads(project.store.get_bytes(release))["checkpoint"]
        for row, (digest, outcome) in zip(run.rows, made, strict=True):
            ledger.commit_release(row.request_id, checkpoint=checkpoint, release=release, receipt=digest)
            ledger.set_outcome(row.request_id, "completed", outcome)
        if category == "exact":
            ledger.set_meta(EXACT, ledger.training_images(barred=True))

    run.step("receipted", write, switch)


def _result(project: Project, ids: Sequence[str]) -> dict[str, Any]:
    """What became of requests that were served in one run."""
    store, ledger = project.store, project.ledger
    steps = served_steps(project, ids[0])
    made, reported = steps["exported"]["release"], steps["verified"]["report"]
    requests = [_served(project, request_id) for request_id in ids]
    head = {
        **(requests[0] if len(requests) == 1 else {}),
        "requests": requests, "counts": steps["unlearned"]["counts"],
    }  # fmt: skip
    if project.purged(made) or project.purged(reported):
        return {**head, "purged": True}
    release = json.loads(store.get_bytes(made))
    current = ledger.current("release") == made
    folder = project.root / LINK if current else project.folder / RELEASES / made[:16]
    return {
        **head,
        "checkpoint": release["checkpoint"],
        "files": {name: str(folder / name) for name in release["files"]},
        "report": json.loads(store.get_bytes(reported)),
        "steps": {k: {c: v[c] for c in _COSTS if c in v} for k, v in steps.items() if "seconds" in v},
    }


def _served(project: Project, request_id: str) -> dict[str, Any]:
    row = project.ledger.request(request_id)
    query = "SELECT receipt_digest FROM receipts WHERE request_id = ?"
    ((digest,),) = project.ledger.rows(query, request_id)
    current = project.ledger.current("receipt") == digest
    path = project.root / LINK / "receipt.json" if current else project.store.path(digest)
    return {
        "request": request_id, "outcome": row.outcome if row else None,
        "receipt": str(path), "receipt_sha256": digest,
    }  # fmt: skip
