"""Requests from the document to the receipt: one with its file, or all that are open together.

    received    understood, its digest recorded                                  qmu_edge.queue.lifecycle
    resolved    the samples that it names found and stored                       qmu_edge.queue.lifecycle
    tombstoned  they can never be trained on again; a whole batch in one transaction
    unlearned, requantized, exported, verified                                   qmu_edge.pipeline.unlearn_run
    receipted   a receipt for each request, and everything switched to, in one transaction

A request that cannot be fulfilled is recorded and does not hold up the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from qmu_edge.data.alike import thumbnails
from qmu_edge.errors import ExportError, LedgerError, RequestError, UnlearnError, VerificationFailed
from qmu_edge.io.digest import Sha256
from qmu_edge.io.plain import to_json
from qmu_edge.page.facts import Facts
from qmu_edge.page.page import page
from qmu_edge.pipeline.fulfilled import FailedBatch, Fulfilled, FulfilledPending, fulfilled
from qmu_edge.pipeline.ladder import Climb, Effort, climb
from qmu_edge.pipeline.make_receipt import (
    BEGUN_WITH,
    COMPUTED,
    FulfilledRun,
    make_receipt,
    require_impersonal,
)
from qmu_edge.pipeline.near_duplicates import noticed, require_none
from qmu_edge.pipeline.networks import Networks
from qmu_edge.pipeline.papers import facts_of, released_papers
from qmu_edge.pipeline.passes import passes_of
from qmu_edge.pipeline.plugged import packages_of
from qmu_edge.pipeline.references import Bank
from qmu_edge.pipeline.release import require_removable
from qmu_edge.pipeline.unlearn_run import Run, plain
from qmu_edge.project.checklist import checklists
from qmu_edge.project.history import History
from qmu_edge.project.inventory import inventory
from qmu_edge.project.project import Project
from qmu_edge.project.publish import publish_current
from qmu_edge.project.records import StepResult
from qmu_edge.project.results import BEGUN, BROUGHT, Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.project.thumbnails import keep
from qmu_edge.queue.lifecycle import close_deleted, register, require
from qmu_edge.queue.schedule import SAME_SAMPLES, batch_name, batches, closed, places, plan
from qmu_edge.receipt.fields import refusing
from qmu_edge.receipt.receipt import ADOPTED, PRETRAINED, sign
from qmu_edge.receipt.statement import Method, Rung
from qmu_edge.recipe import PolicyRecipe, Recipe
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import Claim, tombstones_of
from qmu_edge.request.split import Passes, Split, emptied_classes
from qmu_edge.request.stored import Positions
from qmu_edge.store.ledger.keys import note_model_key
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow, StepRow
from qmu_edge.store.ledger.states import FULFILLED, Outcome, Pointer, State, Step
from qmu_edge.unlearn.registry import method

# What stops one batch and not the next.
_ONE_BATCH: Final = (RequestError, UnlearnError, ExportError, VerificationFailed)


def fulfil(project: Project, request: DeletionRequest, effort: Effort) -> Fulfilled:
    """Fulfil one request from its receipt to the release, with its batch if it has begun in one.

    Args:
        project: Open; this function takes the store's lock.
        request: Parsed.
        effort: Where, by what method, and for how long.

    Raises:
        RequestError: It cannot be honoured, waits for approval, or is closed.
        VerificationFailed: A threshold is not met; nothing was released.
        QmuEdgeError: Any step's own error.
    """
    with project.locked():
        passes = _require_ready(
            Networks.of(project), project.current(Pointer.CHECKPOINT), project.samples, project.recipe,
            project.results, effort,
        )  # fmt: skip
        row = register(project, request)
        if row.is_open:
            waits = next(p.waits for p in places(project.ledger, project.recipe.policy) if p.row == row)
            if waits:
                raise RequestError(f"request {row.request_id}: waits for {waits}")
            (batch,) = batches(project.ledger, [row])
            if row.request_id not in [r.request_id for r in _fulfil(project, batch, effort, passes)]:
                raise RequestError(f"request {row.request_id}: already deleted: all samples it names")
        elif row.outcome not in FULFILLED:
            raise RequestError(closed(row))
        publish_current(project.root, project.store, project.ledger, project.results)
        return fulfilled(project.root, project.store, project.ledger, project.results, [row.request_id])


def fulfil_pending(project: Project, effort: Effort) -> FulfilledPending:
    """Fulfil all open requests that do not wait for a person: one run for those that have not begun."""
    with project.locked():
        passes = _require_ready(
            Networks.of(project), project.current(Pointer.CHECKPOINT), project.samples, project.recipe,
            project.results, effort,
        )  # fmt: skip
        close_deleted(project.ledger)
        found = places(project.ledger, project.recipe.policy)
        chosen = [p.row for p in found if not p.waits]
        done: list[Fulfilled] = []
        failed: list[FailedBatch] = []
        told: set[str] = set()
        for batch in batches(project.ledger, chosen):
            ids = [row.request_id for row in batch]
            try:
                ids = [row.request_id for row in _fulfil(project, batch, effort, passes)]
                done += (
                    [fulfilled(project.root, project.store, project.ledger, project.results, ids)]
                    if ids
                    else []
                )
            except _ONE_BATCH as error:
                failed.append({"requests": ids, "error": str(error), "exit_code": error.exit_code})
            told |= set(ids)
        publish_current(project.root, project.store, project.ledger, project.results)
        rest = [require(project.ledger, row.request_id) for row in chosen if row.request_id not in told]
        still = [(require(project.ledger, p.row.request_id), p.waits) for p in found if p.waits]
        rest += [row for row, _ in still if not row.is_open]
        waits = {row.request_id: what for row, what in still if row.is_open}
        waits |= {row.request_id: SAME_SAMPLES for row in rest if row.is_open}
        return {
            "batches": done, "failed": failed,
            "waiting": [{"request": i, "waits_for": what} for i, what in waits.items()],
            "closed": [row.request_id for row in rest if not row.is_open],
        }  # fmt: skip


def _require_ready(
    networks: Networks, checkpoint: Sha256, samples: ProjectSamples, recipe: Recipe, results: Results,
    effort: Effort,
) -> Mapping[str, Passes]:  # fmt: skip
    """Check what every run needs before any request is recorded; returns the passes of its methods."""
    for name in (effort.method,) if effort.method else recipe.policy.rungs:
        method(name)  # that of another package may be gone, or not confirmed here
    passes = passes_of(results, recipe, effort.method)
    networks.load(checkpoint)
    _ = samples.images
    return passes


def _fulfil(
    project: Project, batch: Sequence[RequestRow], effort: Effort, passes: Mapping[str, Passes]
) -> Sequence[RequestRow]:
    """Fulfil a batch and return it, without the requests of which others have deleted everything."""
    ledger, samples = project.ledger, project.samples
    batch, claims = _still_there(ledger, samples, batch)
    if not batch:
        return batch
    planned = plan(project, batch, claims, effort.method, passes)
    if planned.forced_by:
        project.progress.note(f"{planned.rungs[0]}: {planned.forced_by}")
    split, alike = noticed(samples, project.recipe.policy, planned.split)
    if len(alike):
        first = samples.index.ids[alike[0]]
        project.progress.note(f"{len(alike)} retained images look like forgotten ones, the first is {first}")
    if project.recipe.policy.deleted_class == "remove" and _empties(samples, split):
        checkpoint = project.current(Pointer.CHECKPOINT)
        require_removable(Networks.of(project), checkpoint, samples.images.shape[-1])
    _bar(ledger, samples, batch, claims, project.recipe.policy, alike)
    if effort.method is None:
        project.results.note_passes(project.recipe.digest(), passes)
    climbed = climb(project, batch, replace(planned, split=split), effort)
    _renew(Bank.of(project), [row.request_id for row in batch], effort)
    _receipts(climbed, claims)
    return batch


def _empties(samples: ProjectSamples, split: Split) -> bool:
    return bool(emptied_classes(samples.index, split, samples.barred()).classes)


def _renew(bank: Bank, served: Sequence[str], effort: Effort) -> None:
    """Train the reference that knew them again, before the receipt; where there is no bank, none is made."""
    if bank.recipe.references.trained != "once":
        bank.forget()
    elif bank.results.banks():
        bank.build(effort.device, served)
    else:
        bank.drop_states()


def _still_there(
    ledger: Ledger, samples: ProjectSamples, batch: Sequence[RequestRow]
) -> tuple[Sequence[RequestRow], Sequence[Claim]]:
    resolved, begun = ledger.open_details(Step.RESOLVED), ledger.open_details(Step.TOMBSTONED)
    claims = {row.request_id: samples.claim(resolved[row.request_id]) for row in batch}
    barred = samples.barred(besides=claims.keys())
    deleted = [row for row in batch if barred[claims[row.request_id].samples].all()]
    if deleted and not begun.keys() - claims.keys():  # else it is barred by another, but not yet forgotten
        with ledger.change():
            for row in deleted:
                ledger.set_outcome(row.request_id, State.COMPLETED, Outcome.DENIED, "already_deleted")
    kept = [row for row in batch if row not in deleted]
    return kept, [claims[row.request_id] for row in kept]


def _bar(
    ledger: Ledger, samples: ProjectSamples, batch: Sequence[RequestRow], claims: Sequence[Claim],
    policy: PolicyRecipe, alike: Positions,
) -> None:  # fmt: skip
    if batch[0].request_id in ledger.open_details(Step.TOMBSTONED):
        return
    require_none(samples, policy, alike)
    name = batch_name(batch)
    with ledger.change():
        for row, claim in zip(batch, claims, strict=True):
            ledger.start_step(row.request_id, "", Step.TOMBSTONED)
            ids, digests = zip(*tombstones_of(samples.index, claim), strict=True)
            count = ledger.add_tombstones(row.request_id, ids, digests)
            result = StepResult(batch=name, count=count)
            ledger.finish_step(row.request_id, "", Step.TOMBSTONED, result.to_json())
            ledger.set_outcome(row.request_id, State.UNLEARNING, None)
        if policy.keep_thumbnails:
            deleted = np.unique(np.concatenate([claim.samples for claim in claims]))
            keep(ledger, thumbnails(samples.images, deleted))


def _receipts(climbed: Climb, claims: Sequence[Claim]) -> None:
    """Write a receipt for each request; switch to the release, and to all of them, at once."""
    run, project, ledger = climbed.run, climbed.run.project, climbed.run.project.ledger
    made: list[tuple[str, Outcome]] = []
    index, root, key = project.samples.index, project.root, project.signing_key

    def write() -> StepResult:
        fulfilled, previous = _fulfilled_run(climbed), ledger.current(Pointer.RECEIPT)
        history = History(ledger)
        found = inventory(project, history)
        lists = checklists(ledger, project.results, history, found, [r.request_id for r in run.rows])
        for row, claim in zip(run.rows, claims, strict=True):
            receipt = make_receipt(
                fulfilled, row=row, claim=claim, artefacts=lists[row.request_id], previous=previous
            )
            require_impersonal(receipt, row=row, claim=claim, index=index, root=root)
            signed = sign(receipt, key)
            previous = project.store.put_bytes(signed)
            made.append((previous, Outcome(receipt.predicate.outcome)))
        # Page and papers of the release are about the receipt that lies beside them, the last one.
        facts = Facts.of(signed, climbed.report, ledger.steps(row.request_id))
        shown = project.store.put_bytes(page(facts))
        verified = StepResult.parse(_verified(run).detail)
        papers = released_papers(
            facts_of(fulfilled.release, project.recipe, signed), signed, report=verified.stored("report"),
            page=shown, key=key,
            require=partial(require_impersonal, row=row, claim=claim, index=index, root=root),
        )  # fmt: skip
        note_model_key(ledger, key)
        stored = {name: project.store.put_bytes(data) for name, data in papers.items()}
        return StepResult(receipts=len(made), page=shown, papers=stored)

    def switch(result: StepResult) -> None:
        release = climbed.release
        checkpoint = project.results.release(release).checkpoint
        for row, (digest, outcome) in zip(run.rows, made, strict=True):
            ledger.commit_release(row.request_id, checkpoint=checkpoint, release=release, receipt=digest)
            ledger.set_outcome(row.request_id, State.COMPLETED, outcome)
        close_deleted(ledger)
        if method(run.method).category == "exact":
            project.results.note_training_from_scratch()

    run.step(Step.RECEIPTED, write, switch)


def _fulfilled_run(climbed: Climb) -> FulfilledRun:
    run, project = climbed.run, climbed.run.project
    with refusing("new receipt"):
        return FulfilledRun(
            method=Method(
                name=run.method,
                category=method(run.method).category,
                parameters=to_json({**plain(run.params), **_computed(run), **_begun_with(run)}),
                seed=run.seed,
            ),
            rungs=[Rung.of(rung) for rung in climbed.tried],
            split=run.split,
            before=run.before,
            release=project.results.release(climbed.release),
            report=climbed.report,
            completed=_verified(run).finished or "",
            recipe=project.recipe.digest(),
            model=project.recipe.model,
            ledger=project.ledger.standing_at(run.rows[0].request_id, run.name, Step.RECEIPTED),
            unwitnessed=_unwitnessed(run),
            packages=packages_of(project.recipe, run.method),
        )


def _verified(run: Run) -> StepRow:
    """The step that measured the files.

    Raises:
        LedgerError: It is not recorded.
    """
    found = run.project.ledger.step(run.rows[0].request_id, run.name, Step.VERIFIED)
    if found is None:
        raise LedgerError(f"ledger {run.project.ledger.path}: run {run.name[:12]} was never verified")
    return found


def _computed(run: Run) -> dict[str, object]:
    """What the bits of its network depend on, where all of it was computed with --deterministic."""
    ledger, request_id = run.project.ledger, run.rows[0].request_id
    rows = [ledger.step(request_id, run.name, step) for step in (Step.UNLEARNED, Step.REQUANTIZED)]
    found = [StepResult.parse(row.detail).circumstances if row else None for row in rows]
    return {COMPUTED: found[0]} if found[0] and found[0] == found[1] else {}


def _begun_with(run: Run) -> dict[str, Sha256]:
    """Of retraining from pretrained weights, which."""
    known = run.project.results.pretrained()
    return {BEGUN_WITH: known} if known and method(run.method).category == "exact" else {}


def _unwitnessed(run: Run) -> list[str]:
    """What is to be said of the networks before and after that were not trained here from scratch."""
    origin = run.project.results.origin()
    begun = origin == BEGUN or _begun_with(run)
    return [*([ADOPTED] if origin == BROUGHT else []), *([PRETRAINED] if begun else [])]
