"""Which open requests are fulfilled next, together, and which wait for a person.

Requests that are fulfilled together are one batch: their samples are barred in one transaction, there is
one union split, one unlearning and one release, and a receipt for each. A batch that has begun stays
together until it ends, so that a kill never makes it start over with another forget set.

A request waits when only a part of it is known, or when it is too large for the policy, until somebody
approves it. Shares are of the training images that were registered.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypedDict

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.project.project import Project
from qmu_edge.project.records import StepResult
from qmu_edge.project.results import Results
from qmu_edge.queue.cost import Costs, expect
from qmu_edge.queue.foreseen import Foreseen, foresee
from qmu_edge.queue.lifecycle import is_deleted_by_others, said, short_ids
from qmu_edge.recipe import RETRAIN, PolicyRecipe, Recipe
from qmu_edge.request.deadline import days_left
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import EmptiedClasses, Passes, Split, divide, emptied_classes
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import REQUEST_KEY, RequestRow
from qmu_edge.store.ledger.states import REJECTED, Outcome, State, Status, Step

SAME_SAMPLES: Final = "the request that deletes the same samples"
NO_RECIPE: Final = "[adopt] retrain is false, so nothing says how to train this network"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an open request stands: `waits` says for what, or is "" when it can be fulfilled."""

    row: RequestRow
    images: int
    waits: str


class Waiting(TypedDict):
    """A request, and what it waits for."""

    request: str
    waits_for: str


def places(ledger: Ledger, policy: PolicyRecipe) -> list[Place]:
    """All open requests, in the order in which they are fulfilled."""
    resolved, begun = ledger.open_details(Step.RESOLVED), ledger.open_details(Step.TOMBSTONED)
    deleted = ledger.training_images(barred=True)
    found = []
    for row in filter(lambda row: row.is_open, ledger.requests()):
        images, waits = 0, f"a decision: it cannot be honoured as written ({row.reason})"
        if is_deleted_by_others(row):
            waits = SAME_SAMPLES
        if row.request_id in resolved:
            found_then = StepResult.parse(resolved[row.request_id])
            images, total = (found_then.counts or {})["forget"], max(1, found_then.training_images or 0)
            shares = images / total, (deleted + images) / total
            approved = row.approved_by is not None or row.request_id in begun
            waits = waits_for(policy, *shares, partial=row.outcome is Outcome.PARTIAL, approved=approved)
            deleted += images if not waits and row.request_id not in begun else 0
        found.append(Place(row, images, waits))
    return found


def waits_for(policy: PolicyRecipe, share: float, together: float, *, partial: bool, approved: bool) -> str:
    """What a request waits for, or "".

    >>> waits_for(PolicyRecipe(), 0.1, 0.2, partial=False, approved=False)
    ''
    >>> waits_for(PolicyRecipe(), 0.3, 0.3, partial=False, approved=False)
    'approval: 30.0% of the training images, approval_above is 25.0%'
    >>> waits_for(PolicyRecipe(), 0.1, 0.6, partial=False, approved=False)
    'approval: 60.0% of the training images, approval_above_total is 50.0%'
    """
    if approved:
        return ""
    if partial:
        return "approval: only a part of what it names is known"
    for name, value in (("approval_above", share), ("approval_above_total", together)):
        limit = getattr(policy, name)
        if limit != "off" and value > limit:
            return f"approval: {value:.1%} of the training images, {name} is {limit:.1%}"
    return ""


def batches(ledger: Ledger, chosen: Sequence[RequestRow]) -> list[tuple[RequestRow, ...]]:
    """The chosen requests as batches: those that have begun, whole, then one of all the others."""
    begun = ledger.open_details(Step.TOMBSTONED)
    groups: defaultdict[str | None, list[RequestRow]] = defaultdict(list)
    for row in ledger.requests():
        if row.request_id in begun:
            groups[StepResult.parse(begun[row.request_id]).batch].append(row)
    ids = {row.request_id for row in chosen}
    started = [tuple(rows) for rows in groups.values() if ids & {r.request_id for r in rows}]
    fresh = tuple(row for row in chosen if row.request_id not in begun)
    return [*started, *([fresh] if fresh else [])]


def batch_name(rows: Sequence[RequestRow]) -> str:
    """What the ledger calls a batch: a digest of the digests of its requests."""
    return sha256_of("".join(sorted(row.digest for row in rows)).encode())


def batch_salt(ledger: Ledger, rows: Sequence[RequestRow]) -> str:
    """What the digest of a batch's sets is salted with: made of its requests' keys, so it goes with a purge.

    "" when none has a key of its own: they are of version 0.1.
    """
    own = [ledger.meta(f"{REQUEST_KEY}:{row.seq}") for row in rows]
    return sha256_of("".join(sorted(filter(None, own))).encode()) if any(own) else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests would be fulfilled together.

    Attributes:
        split: The samples of all of them.
        rungs: The methods to try, in order.
        forced_by: Why these are not the policy's, or "".
        foreseen: What the verdict could show; None where that is not known before.
        expected: What each would cost.
    """

    split: Split
    rungs: tuple[str, ...]
    forced_by: str
    foreseen: Foreseen | None
    expected: Costs


def plan(
    project: Project, rows: Sequence[RequestRow], claims: Sequence[Claim], asked: str | None,
    passes: Mapping[str, Passes],
) -> Plan:  # fmt: skip
    """Divide the samples for a run that fulfils these requests, and choose its methods.

    Args:
        project: Open.
        rows: The requests that the ledger knows of those whose `claims` these are.
        claims: What they name.
        asked: The only method to try; the policy's rungs when None.
        passes: How often the methods go through the sets of a request.

    Raises:
        RequestError: Nothing would be left to forget, or to retain.
        ConfigError: See `rungs`.
    """
    ledger, samples = project.ledger, project.samples
    ids = [row.request_id for row in rows]
    barred, claimed = ledger.barred(besides=ids), samples.claimed(besides=ids)
    split = divide(samples.index, claims, barred=barred, claimed=claimed, salt=batch_salt(ledger, rows))
    share = deleted_share(ledger, project.results, rows, split)
    emptied = emptied_classes(samples.index, split, samples.barred())
    shown = foresee(project.results, samples, project.recipe, split, emptied)
    costs = expect(ledger, project.results, project.recipe, split, passes)
    exact = may_retrain(project.results, project.recipe)  # else it is dearer than anything
    names, why = rungs(project.recipe.policy, asked, emptied, share, shown, costs if exact else None)
    if not exact:
        names, why = without_retraining(names, why)
    return Plan(split, names, why, shown, costs)


def may_retrain(results: Results, recipe: Recipe) -> bool:
    """Whether the recipe says how to train the network: of an adopted one it need not."""
    return results.adopted() is None or recipe.adopt.retrain


def without_retraining(names: tuple[str, ...], why: str) -> tuple[tuple[str, ...], str]:
    """The methods that are left where nobody knows how the network was trained, and why so few.

    Raises:
        ConfigError: Retraining is all that is allowed.

    >>> without_retraining(("qmul", "retrain"), "")
    (('qmul',), 'without retrain: [adopt] retrain is false, so nothing says how to train this network')
    """
    left = tuple(name for name in names if name != RETRAIN)
    if not left:
        raise ConfigError(
            f"{RETRAIN}: {NO_RECIPE}{f'; no other method is allowed: {why}' if why else ''}; give a [train] "
            "that does and set [adopt] retrain = true, or change [policy]"
        )
    return left, why or (f"without {RETRAIN}: {NO_RECIPE}" if RETRAIN in names else "")


def deleted_share(ledger: Ledger, results: Results, rows: Sequence[RequestRow], split: Split) -> float:
    """The share of the training images deleted since the last training from scratch, and by `split`."""
    ids = [row.request_id for row in rows]
    since = ledger.training_images(barred=True, besides=ids) - results.deleted_before_training()
    return (since + len(split.forget)) / max(1, ledger.training_images())


def rungs(
    policy: PolicyRecipe,
    asked: str | None,
    emptied: EmptiedClasses,
    share: float,
    shown: Foreseen | None = None,
    costs: Costs | None = None,
) -> tuple[tuple[str, ...], str]:
    """The methods to try, and why they are not the policy's, or "".

    Args:
        policy: Of the project.
        asked: The only method to try; the policy's rungs when None.
        emptied: The classes that the split leaves empty.
        share: See `deleted_share`.
        shown: What the verdict could show. Where that is next to nothing, no other method is tried; one that
            was asked for is.
        costs: What methods would cost. Where retraining costs no more than the first, no other is tried.

    Raises:
        ConfigError: The policy demands retraining, and another method was asked for.

    >>> rungs(PolicyRecipe(), "qmul", EmptiedClasses((), others=True), 0.1)
    (('qmul',), '')
    >>> rungs(PolicyRecipe(retrain_above=0.5), None, EmptiedClasses((), others=True), 0.6)[0]
    ('retrain',)
    """
    names, limit, why = (asked,) if asked else policy.rungs, policy.retrain_above, ""
    if emptied.classes and emptied.others:
        why = "whole classes and samples of other classes go together"
    elif limit != "off" and share > limit:
        why = f"{share:.1%} of the training images deleted since training, retrain_above is {limit:.1%}"
    hopeless = shown is not None and shown.hopeless and policy.when_not_measurable == "retrain"
    if hopeless and not why and not asked:
        why = str(shown)
    if costs is not None and not why and not asked:
        why = costs.dearer(names[0])
    if names == (RETRAIN,) or not why:
        return names, ""
    if asked:
        raise ConfigError(f"method {asked}: {why}; allowed is {RETRAIN}")
    return (RETRAIN,), why


class RequestStanding(TypedDict):
    """Where a request stands.

    Attributes:
        request, short: Its id, and as much of it as tells it from the others.
        regulation, received, due, extended, state, outcome, reason, requested_by, approved_by: See
            `RequestRow`.
        days_left: Until the answer is due; None where nothing is open, or no law says when.
        overdue: Whether that has passed.
        images: How many would be forgotten; None once it is closed.
        receipt: Digest; None before.
        next: What happens next; None once it is closed.
    """

    request: str
    short: str
    regulation: str | None
    received: str
    due: str | None
    extended: str | None
    days_left: int | None
    overdue: bool
    state: State
    outcome: Outcome | None
    reason: str | None
    requested_by: str | None
    approved_by: str | None
    images: int | None
    receipt: Sha256 | None
    next: str | None


def standing(
    ledger: Ledger, policy: PolicyRecipe, now: datetime, *, only: str | None = None, retrain: bool = True
) -> list[RequestStanding]:
    """All requests, or one, with their dates and what happens next.

    Args:
        ledger: Of the project.
        policy: Of its recipe.
        now: Days are counted from then.
        only: The id of the one; all when None.
        retrain: See `may_retrain`.
    """
    rungs = [name for name in policy.rungs if retrain or name != RETRAIN]
    waiting = {p.row.request_id: p for p in places(ledger, policy)}
    receipts = {r.request_id: r.digest for r in ledger.receipts()}
    rows = ledger.requests()
    short = short_ids(row.request_id for row in rows)

    def shown(row: RequestRow) -> RequestStanding:
        place = waiting.get(row.request_id)
        comes = _next(ledger, place, rungs) if place else None
        return _shown(row, place, comes, short[row.request_id], receipts.get(row.request_id), now)

    return [shown(row) for row in rows if only in (None, row.request_id)]


def _shown(
    row: RequestRow, place: Place | None, comes: str | None, short: str, receipt: Sha256 | None, now: datetime
) -> RequestStanding:
    left = days_left(row.extended or row.due, now) if row.is_open else None
    return {
        "request": row.request_id, "short": short,
        "regulation": row.regulation, "received": row.received, "due": row.due,
        "extended": row.extended, "days_left": left, "overdue": left is not None and left < 0,
        "state": row.state, "outcome": row.outcome, "reason": row.reason,
        "requested_by": row.requested_by, "approved_by": row.approved_by,
        "images": place.images if place else None, "receipt": receipt,
        "next": comes,
    }  # fmt: skip


def _next(ledger: Ledger, place: Place, rungs: Sequence[str]) -> str:
    row = place.row
    if place.waits.startswith("approval"):
        return f"waits for {place.waits}: qmu-edge request approve, or deny"
    if place.waits == SAME_SAMPLES:
        return f"is closed with {SAME_SAMPLES}"
    if place.waits:
        return f"waits for {place.waits}: qmu-edge request deny or withdraw, or send a corrected one"
    if row.outcome is Outcome.FAILED:
        tried = [*_tried(ledger, row)]
        if left := [name for name in rungs if name not in tried]:
            missed = ", ".join(tried) or "so far none"
            return (
                f"not passed: {missed}; run qmu-edge unlearn --pending: it goes on, with {left[-1]} at the "
                "latest"
            )
        return (
            "no method passed: run qmu-edge unlearn with another --method, or with other limits in [policy] "
            "of qmu.toml"
        )
    if row.state is State.RECEIVED:
        return "run qmu-edge unlearn --pending"
    open_steps = [s for s in ledger.steps(row.request_id) if s.status is not Status.DONE]
    at = f" from step {open_steps[-1].step}" if open_steps else ""
    return f"run qmu-edge unlearn --pending: it goes on{at}"


def _tried(ledger: Ledger, row: RequestRow) -> dict[str, None]:
    """The methods whose files were judged and not released, in order."""
    rejected = (s for s in ledger.steps(row.request_id) if s.step.startswith(REJECTED))
    return dict.fromkeys(StepResult.parse(s.detail).method or s.step for s in rejected)


def closed(row: RequestRow) -> str:
    """What to say to somebody who wants a closed request fulfilled."""
    return f"request {row.request_id}: is closed: {said(row)}"
