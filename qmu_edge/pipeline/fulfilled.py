"""What became of requests that were fulfilled, as whoever asked is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from qmu_edge.io.digest import Sha256
from qmu_edge.machine.cost import Cost
from qmu_edge.project.plain import ReportJson
from qmu_edge.project.project import STORE
from qmu_edge.project.publish import LINK, PAGE, RELEASES
from qmu_edge.project.recipients import Recipients
from qmu_edge.project.records import StepResult
from qmu_edge.project.results import Results
from qmu_edge.queue.schedule import Waiting
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, Step
from qmu_edge.store.objects import ObjectStore


class StepCost(Cost):
    """What a step has cost; `spent` of training, see `Throughput.spent`."""

    spent: NotRequired[Mapping[str, int | float]]


class FulfilledRequest(TypedDict):
    """What became of one request, and the path and the digest of its receipt."""

    request: str
    outcome: Outcome | None
    receipt: str
    receipt_sha256: Sha256


class Fulfilled(TypedDict):
    """What became of requests that were fulfilled in one attempt.

    Attributes:
        request, outcome, receipt, receipt_sha256: Of the only one; missing where there are several.
        requests: All of them.
        counts: How many samples there are of each kind.
        purged: There; and all that follows is not, where its release or its report is purged.
        checkpoint: Digest of the network.
        files: Path of each file by its name.
        page: Path of `report.html`; None of releases that are older than it.
        report: What was measured, and the verdict.
        steps: What each has cost.
        take_down: Revisions on a Hub that are from before a later deletion, where there are any.
    """

    request: NotRequired[str]
    outcome: NotRequired[Outcome | None]
    receipt: NotRequired[str]
    receipt_sha256: NotRequired[Sha256]
    requests: list[FulfilledRequest]
    counts: Mapping[str, int] | None
    purged: NotRequired[Literal[True]]
    checkpoint: NotRequired[Sha256]
    files: NotRequired[dict[str, str]]
    page: NotRequired[str | None]
    report: NotRequired[ReportJson]
    steps: NotRequired[dict[str, StepCost]]
    take_down: NotRequired[list[str]]


class FailedBatch(TypedDict):
    """Requests that could not be fulfilled together, and why."""

    requests: list[str]
    error: str
    exit_code: int


class FulfilledPending(TypedDict):
    """What became of all open requests.

    Attributes:
        batches: A result each.
        failed: Batches that could not be fulfilled.
        waiting: Requests that wait for a person, or for another request.
        closed: Requests of which others had deleted everything meanwhile.
    """

    batches: list[Fulfilled]
    failed: list[FailedBatch]
    waiting: list[Waiting]
    closed: list[str]


def fulfilled(
    root: Path, store: ObjectStore, ledger: Ledger, results: Results, ids: Sequence[str]
) -> Fulfilled:
    """What became of requests that were fulfilled in one attempt, by their ids."""
    link = root / LINK
    steps = results.fulfilled_steps(ids[0])
    made, reported = steps[Step.EXPORTED].stored("release"), steps[Step.VERIFIED].stored("report")
    requests = [_receipt_of(ledger, request_id, link, store) for request_id in ids]
    told: Fulfilled = {"requests": requests, "counts": steps[Step.UNLEARNED].counts}
    if len(requests) == 1:
        told = {**requests[0], **told}
    if late := Recipients(ledger).superseded():
        told["take_down"] = [*map(str, late)]
    if results.purged(made) or results.purged(reported):
        told["purged"] = True
        return told
    release = results.release(made)
    current = ledger.current(Pointer.RELEASE) == made
    folder = link if current else root / STORE / RELEASES / made[:16]
    told["checkpoint"] = release.checkpoint
    told["files"] = {name: str(folder / name) for name in release.files}
    told["page"] = str(folder / PAGE) if steps[Step.RECEIPTED].page else None
    told["report"] = results.report(reported).to_json()
    told["steps"] = {name: cost for name, step in steps.items() if (cost := _cost(step))}
    return told


def _cost(step: StepResult) -> StepCost | None:
    """What a step has cost; None where that was not measured."""
    if step.seconds is None or step.peak_mb is None:
        return None
    cost: StepCost = {"seconds": step.seconds, "peak_mb": step.peak_mb}
    if step.spent is not None:
        cost["spent"] = step.spent
    return cost


def _receipt_of(ledger: Ledger, request_id: str, link: Path, store: ObjectStore) -> FulfilledRequest:
    """Where the receipt of a request lies: behind the link, or at its place in the store."""
    row, digest = ledger.request(request_id), ledger.receipt_of(request_id)
    current = ledger.current(Pointer.RECEIPT) == digest
    return {
        "request": request_id, "outcome": row.outcome if row else None,
        "receipt": str(link / "receipt.json" if current else store.path(digest)), "receipt_sha256": digest,
    }  # fmt: skip
