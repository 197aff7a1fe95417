"""What may happen to a request besides being fulfilled: received, approved, extended, withdrawn, denied.

    received    understood, and resolved to samples at once: `partial` and `no_match` show here
    unlearning  its samples are barred; from here on it is finished, never undone
    completed   nothing more is due; the outcome says why

What is kept. The document is never stored, and neither is a name in it. Once its subjects are turned
into pseudonyms and these into samples, a list of positions in the sample index is all that is left to
serve; beside it stand a digest of the document, under a key of its own that a purge removes, and the
references of who asked and approved.

Withdrawing. A request can be withdrawn or denied until its samples are barred. After that the deletion
has begun: nothing lifts a tombstone, because "deleted" must not depend on who asked last, and a network
that has half forgotten is of no use to anybody. The deletion is then finished; the person can be
registered again with a new dataset.

Functions that change something need the store's lock.
"""

import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import ConfigError, RequestError
from qmu_edge.project.project import Project
from qmu_edge.project.records import StepResult
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.request.deadline import EXTENSIONS, due_time, rfc3339
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.resolve import NEVER_TRAINED_ON, Claim, resolve
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import REQUEST_KEY, RequestRow
from qmu_edge.store.ledger.states import Outcome, Pointer, State, Status, Step

DENIALS: Final = (  # the vocabulary of the Data Rights Protocol, and one of ours
    "suspected_fraud", "insuf_verification", "no_match", "claim_not_covered", "outside_jurisdiction",
    "too_many_requests", "other", "already_deleted",
)  # fmt: skip
UNDECLARED: Final = "not declared as trained on when the network was adopted"
_MAX_REFERENCE: Final = 512
SHORTEST: Final = 8  # characters of an id by which a request may be called


def register(project: Project, request: DeletionRequest) -> RequestRow:
    """Record a request and the samples that it names; the same request again changes nothing.

    Raises:
        RequestError: Nothing or only a part of it is known, everything is deleted already, or it
            cannot be honoured at all. It is recorded nevertheless, with its outcome. Only a
            conflict (its id with another content) is not.
    """
    row = known(project.ledger, request, project.key)
    if row is not None and (not row.is_open or _is_resolved(project.ledger, row)):
        require_answered(project.ledger, project.results, project.samples, request, project.key)
        return row
    index = project.samples.index
    found, error = look_up(project.ledger, project.results, index, request, project.key)
    if found is not None:
        found = replace(found, salt=secrets.token_hex(32))
    digest = project.store.put_bytes(found.to_bytes()) if found is not None else None
    ledger, request_id = project.ledger, request.request_id
    with ledger.change():
        if row is None:
            _receive(ledger, request, partial=found is not None and found.partial)
        if found is not None:
            ledger.start_step(request_id, "", Step.RESOLVED)
            # Counted once: `status` is to answer at once, and a million rows are not.
            result = StepResult(claim=digest, counts=found.counts(), training_images=ledger.training_images())
            ledger.finish_step(request_id, "", Step.RESOLVED, result.to_json())
        standing = _standing(ledger, error)
        if row is None or standing != (row.state, row.outcome, row.reason):
            ledger.set_outcome(request_id, *standing)
    if error is not None:
        raise error
    return require(ledger, request_id)


def known(ledger: Ledger, request: DeletionRequest, key: bytes) -> RequestRow | None:
    """The row of this very request.

    Args:
        ledger: Open.
        request: Parsed.
        key: Of the project, for requests of up to version 0.1, which have none of their own.

    Raises:
        RequestError: Its id was received before with another content. After a purge nothing tells any more
            what it was: see `require_answered`.
    """
    row = ledger.request(request.request_id)
    if row is None:
        return None
    purged = not row.is_open and not ledger.meta(f"{REQUEST_KEY}:{row.seq}")
    if not _is_same(ledger, row, request, key) and not purged:
        raise RequestError(
            f"request {request.request_id}: conflict: it was received before with another content"
        )
    return row


def require_answered(
    ledger: Ledger, results: Results, samples: ProjectSamples, request: DeletionRequest, key: bytes
) -> None:
    """Refuse a request under the id of a purged one, as long as anything is there that it names.

    Raises:
        RequestError: It was received before, what for is purged, and it names samples that are not deleted.
    """
    row = ledger.request(request.request_id)
    if row is None or row.is_open or _is_same(ledger, row, request, key):
        return
    claim, _ = look_up(ledger, results, samples.index, request, key)
    if claim is not None:
        raise RequestError(
            f"request {request.request_id}: its id was used before, and what for is purged; what it names "
            "now is not deleted: give it another id"
        )


def _is_same(ledger: Ledger, row: RequestRow, request: DeletionRequest, key: bytes) -> bool:
    own = ledger.meta(f"{REQUEST_KEY}:{row.seq}")
    return row.digest == request.digest(bytes.fromhex(own) if own else key)


def look_up(
    ledger: Ledger, results: Results, index: SampleIndex, request: DeletionRequest, key: bytes
) -> tuple[Claim | None, RequestError | None]:
    """What a request names, and what is wrong with it; a request of which a part is known has both."""
    barred, never = ledger.barred(), UNDECLARED if results.adopted() else NEVER_TRAINED_ON
    try:
        _require_model(ledger, results, request)
        return resolve(index, request, barred=barred, key=key, never=never), None
    except RequestError as error:
        if error.reason != "partial":
            return None, error
        partly = error
    try:
        return resolve(index, request, barred=barred, key=key, never=never, partial=True), partly
    except RequestError as error:
        return None, error


def answered(ledger: Ledger, root: Path) -> str:
    """The request that the current receipt answers.

    Raises:
        ConfigError: The project in `root` has no receipt yet.
    """
    current = ledger.current(Pointer.RECEIPT)
    found = ledger.receipt(current) if current else None
    if found is None or found.request_id is None:
        raise ConfigError(f"{root}: no receipt yet")
    return found.request_id


def require(ledger: Ledger, request_id: str) -> RequestRow:
    """The row of a request.

    Args:
        ledger: Open.
        request_id: Its id, or the start of it: at least `SHORTEST` characters that no other id begins with.

    Raises:
        RequestError: No such request, or several begin so.
    """
    wanted = request_id.lower()
    if (row := ledger.request(wanted)) is not None:
        return row
    rows = ledger.requests() if len(wanted) >= SHORTEST else []
    found = [row for row in rows if row.request_id.startswith(wanted)]
    if not found:
        raise RequestError(f"request {request_id}: not known; qmu-edge request list shows those that are")
    if len(found) > 1:
        raise RequestError(f"request {request_id}: {len(found)} ids begin so, allowed is one; say more of it")
    return found[0]


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """The start of each id that `require` knows it by.

    >>> short_ids(["4fa4ecd7-2819", "4fa4ecd7-3", "t-1"])
    {'4fa4ecd7-2819': '4fa4ecd7-2', '4fa4ecd7-3': '4fa4ecd7-3', 't-1': 't-1'}
    """
    found, ordered = {}, sorted(ids)
    for before, own, after in zip(["", *ordered], ordered, [*ordered[1:], ""], strict=False):
        alike = max(_alike(own, other) for other in (before, after))
        found[own] = own[: max(SHORTEST, alike + 1)]
    return found


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def withdraw(ledger: Ledger, request_id: str) -> RequestRow:
    """Close a request because the person took it back.

    Raises:
        RequestError: No such request, it is closed, or its samples are barred already.
    """
    return _close(ledger, request_id, Outcome.WITHDRAWN, None)


def deny(ledger: Ledger, request_id: str, reason: str) -> RequestRow:
    """Close a request that is not granted.

    Raises:
        RequestError: As for `withdraw`, or the reason is not one of `DENIALS`.
    """
    _one_of(reason, DENIALS)
    return _close(ledger, request_id, Outcome.DENIED, reason)


def extend(ledger: Ledger, request_id: str, reason: str, now: datetime) -> RequestRow:
    """Put the deadline off: once, before it has passed, for a reason that the law knows.

    Raises:
        RequestError: One of these does not hold, or the request has no deadline.
    """
    _one_of(reason, EXTENSIONS)
    row = _require_open(ledger, request_id)
    received = datetime.fromisoformat(row.received)
    until = due_time(received, row.regulation, extended=True)
    if row.due is None or until is None:
        raise RequestError(f"request {row.request_id}: it has no deadline that could be extended")
    if row.extended is not None:
        raise RequestError(f"request {row.request_id}: extended before, to {row.extended}; allowed is once")
    if now > datetime.fromisoformat(row.due):
        raise RequestError(
            f"request {row.request_id}: was due {row.due}; an extension is allowed before that"
        )
    with ledger.change():
        ledger.start_step(row.request_id, "", Step.EXTENDED)
        ledger.finish_step(row.request_id, "", Step.EXTENDED, StepResult(reason=reason).to_json())
        ledger.extend(row.request_id, rfc3339(until))
    return require(ledger, row.request_id)


def approve(ledger: Ledger, request_id: str, by: str) -> RequestRow:
    """Let a request that waits be served: it is large, or only a part of it is known.

    Raises:
        RequestError: No such request, it is closed, or `by` is no reference, or that of who asked.
    """
    row = _require_open(ledger, request_id)
    if not by.strip() or len(by) > _MAX_REFERENCE or not by.isprintable():
        raise RequestError(f"approved by: allowed are 1 to {_MAX_REFERENCE} printable characters")
    if by == row.requested_by:
        raise RequestError(f"request {row.request_id}: whoever asked for it cannot approve it")
    ledger.approve(row.request_id, by)
    return require(ledger, row.request_id)


def _require_model(ledger: Ledger, results: Results, request: DeletionRequest) -> None:
    sha256 = request.model_sha256
    if sha256 is None:
        return
    release = ledger.current(Pointer.RELEASE)
    files = results.release(release).files if release else {}
    if sha256 not in {ledger.current(Pointer.CHECKPOINT), *files.values()}:
        raise RequestError(
            f"request {request.request_id}: it is about model {sha256[:12]}…, which is not the current one",
            reason="other_model",
        )


def _receive(ledger: Ledger, request: DeletionRequest, *, partial: bool) -> None:
    due, key = due_time(request.received_time, request.regulation), secrets.token_bytes(32)
    ledger.receive(
        request.request_id, request.digest(key), form=request.form, regulation=request.regulation,
        received=rfc3339(request.received_time), due=rfc3339(due) if due else None,
        requested_by=request.requested_by, approved_by=approval(request, partial=partial),
    )  # fmt: skip
    ledger.set_meta(f"{REQUEST_KEY}:{require(ledger, request.request_id).seq}", key.hex())


def approval(request: DeletionRequest, *, partial: bool) -> str | None:
    """Who approved a request in its document: not for a part of it, and nobody approves their own."""
    own = request.approved_by_ref == request.requested_by
    return None if own or partial else request.approved_by_ref


def _standing(ledger: Ledger, error: RequestError | None) -> tuple[State, Outcome | None, str | None]:
    """State, outcome and reason of a request that was just looked up."""
    if error is None:
        return State.RECEIVED, None, None
    if error.reason == "partial":
        return State.RECEIVED, Outcome.PARTIAL, None
    if error.reason == "no_match":
        return State.COMPLETED, Outcome.NO_MATCH, None
    if error.reason == "already_deleted" and not ledger.open_details(Step.TOMBSTONED):
        return State.COMPLETED, Outcome.DENIED, error.reason
    return State.RECEIVED, Outcome.FAILED, error.reason


def close_deleted(ledger: Ledger) -> None:
    """Close the requests of which others have deleted everything, once those are done.

    Until then the network still knows the samples, and nobody is told that they are deleted.
    """
    rows = [row for row in ledger.requests() if is_deleted_by_others(row)]
    if rows and not ledger.open_details(Step.TOMBSTONED):
        with ledger.change():
            for row in rows:
                ledger.set_outcome(row.request_id, State.COMPLETED, Outcome.DENIED, row.reason)


def is_deleted_by_others(row: RequestRow) -> bool:
    """Whether an open request waits for the end of the one that deletes the same samples."""
    return row.is_open and (row.outcome, row.reason) == (Outcome.FAILED, "already_deleted")


def _is_resolved(ledger: Ledger, row: RequestRow) -> bool:
    step = ledger.step(row.request_id, "", Step.RESOLVED)
    return step is not None and step.status is Status.DONE


def _require_open(ledger: Ledger, request_id: str) -> RequestRow:
    row = require(ledger, request_id)
    if not row.is_open:
        raise RequestError(f"request {row.request_id}: is closed: {said(row)}")
    return row


def said(row: RequestRow) -> str:
    """Outcome and reason in one text."""
    return f"{row.outcome} ({row.reason})" if row.reason else str(row.outcome)


def _close(ledger: Ledger, request_id: str, outcome: Outcome, reason: str | None) -> RequestRow:
    row = _require_open(ledger, request_id)
    if row.state is not State.RECEIVED:
        raise RequestError(
            f"request {row.request_id}: its samples are barred already, so it is finished, not {outcome}"
        )
    ledger.set_outcome(row.request_id, State.COMPLETED, outcome, reason)
    return require(ledger, row.request_id)


def _one_of(reason: str, allowed: tuple[str, ...]) -> None:
    if reason not in allowed:
        raise RequestError(f"reason: found {reason!r}, allowed {', '.join(allowed)}")
