"""Remove what earlier models and deleted people have left in the store, once nothing needs it any more.

Contract. A thing goes when nothing is known to need it (`qmu_edge.project.inventory`) and it has been
superseded for `policy.retention_days`. The order is: intents into the ledger, then the files, then the
ledger's "done"; a purge that was killed is finished by the next one. Never removed: what is current, what an
open request needs, every receipt, the ledger. A receipt can therefore be verified after any purge.

What people have left: the decoded images of deleted samples become zeros in the cache, and the pseudonyms of
their subjects become empty in the sample index. Ids and content digests of the samples stay, in tombstones,
because without them the same images could be brought back unnoticed; but no row says any more which request
they are of, and the keys and salts of a request's digests are gone, so that none confirms a guess at the
person. `store/README.md` says what still can be guessed.

Trap: removing a file does not overwrite the disk's blocks, and nothing here reaches outside the folder.
"""

import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypedDict

import numpy as np

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import remove_path, sync_folder
from qmu_edge.machine.cost import Cost, measured_cost
from qmu_edge.project.checklist import LineJson, checklists, touching
from qmu_edge.project.history import NEVER, History
from qmu_edge.project.inventory import FOLDER, OUTSIDE, WORK, Artefact, inventory
from qmu_edge.project.project import IDS_KEY, Project
from qmu_edge.project.publish import RELEASES
from qmu_edge.project.samples import IMAGES as IMAGE_FILE
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.purges import IMAGES, PSEUDONYMS, Removal
from qmu_edge.store.ledger.states import RemovalStatus, Status, Step
from qmu_edge.store.objects import ObjectStore


class Sum(TypedDict):
    """How many things of one kind there are and their size, and why they went or stay."""

    kind: str
    count: int
    bytes: int
    reason: str


class Purged(TypedDict):
    """What a purge has removed and kept.

    Attributes:
        removed, kept: By kind and reason.
        requests: Those that are purged whole now.
        outside: What is not reached from here.
    """

    removed: list[Sum]
    kept: list[Sum]
    requests: list[str]
    outside: list[str]


class Superseded(TypedDict):
    """A thing that would be removed, and since when nothing needs it."""

    kind: str
    name: str
    bytes: int
    since: str


class PurgePreview(TypedDict):
    """What a purge would do.

    Attributes:
        dry_run: Nothing was done.
        retention_days: Of the policy.
        unfinished: Removals that an earlier purge has begun.
        remove: Thing by thing.
        kept: By kind and reason.
        requests: Every open checklist.
        outside: What is not reached from here.
    """

    dry_run: Literal[True]
    retention_days: int
    unfinished: int
    remove: list[Superseded]
    kept: list[Sum]
    requests: dict[str, list[LineJson]]
    outside: list[str]


_READ: Final[Sum] = {
    "kind": "older pages of the ledger", "count": 1, "bytes": 0,
    "reason": "somebody is reading it: run qmu-edge purge again",
}  # fmt: skip


def purge(project: Project, now: datetime, *, at_once: bool = False) -> Purged:
    """Remove everything that is due.

    Args:
        project: Open, and locked by the caller.
        now: The moment to count the retention window from.
        at_once: Do not wait for the window; what is needed stays all the same.

    Raises:
        ConfigError: Something cannot be removed; the rest is, and the next purge tries again.
        IntegrityError: An object that has to be read is damaged.
    """
    ledger, days = project.ledger, timedelta(days=project.recipe.policy.retention_days)
    remove = partial(_remove, project.folder, ledger, project.store)
    begun: list[Removal] = []
    if _unfinished(ledger):
        begun, _ = _finish(ledger, inventory(project, History(ledger)), remove)
    history = History(ledger)
    found = inventory(project, history)
    due, left = _due(found, now, None if at_once else days)
    _begin(ledger, history, due, "asked for" if at_once else "retention window over")
    (finished, refused), cost = measured_cost(lambda: _finish(ledger, found, remove))
    removed = [*begun, *finished]
    history = History(ledger)
    present = inventory(project, history)
    _forget(ledger, history, present, now - days if not at_once else None)
    emptied = ledger.forget_deleted_pages()
    whole = _whole(ledger, history, present, cost) if emptied else []
    if refused:
        raise ConfigError(
            f"{len(refused)} of {len(removed) + len(refused)} things could not be removed, the first is "
            f"{refused[0]}; run qmu-edge purge again"
        )
    return {
        "removed": _sums((r.kind, r.reason, r.items, r.bytes) for r in removed),
        "kept": [*_kept(left, days), *([] if emptied else [_READ])],
        "requests": whole, "outside": list(OUTSIDE),
    }  # fmt: skip


def preview(project: Project, now: datetime, *, at_once: bool = False) -> PurgePreview:
    """What `purge` would remove, thing by thing, what it would keep, and every open checklist."""
    history = History(project.ledger)
    found = inventory(project, history)
    days = timedelta(days=project.recipe.policy.retention_days)
    due, left = _due(found, now, None if at_once else days)
    open_ones = [r.request_id for r in history.requests if not _is_purged(project.ledger, r.request_id)]
    return {
        "dry_run": True,
        "retention_days": project.recipe.policy.retention_days,
        "unfinished": len(_unfinished(project.ledger)),
        "remove": [{"kind": a.kind, "name": a.name, "bytes": a.bytes, "since": a.since} for a in due],
        "kept": _kept(left, days),
        "requests": {
            request_id: [line.to_json() for line in lines]
            for request_id, lines in checklists(
                project.ledger, project.results, history, found, open_ones
            ).items()
        },
        "outside": list(OUTSIDE),
    }


def _due(
    found: list[Artefact], now: datetime, retention: timedelta | None
) -> tuple[list[Artefact], list[Artefact]]:
    """What is due, and what stays for now; without a retention window all that nothing needs is due."""
    due: list[Artefact] = []
    left: list[Artefact] = []
    for thing in found:
        is_old = retention is None or (
            not thing.kept and datetime.fromisoformat(thing.since) + retention <= now
        )
        (due if is_old and not thing.kept else left).append(thing)
    return due, left


def _begin(ledger: Ledger, history: History, due: list[Artefact], reason: str) -> None:
    """Write down what goes, and that the requests which it belongs to are being purged."""
    known = {(r.kind, r.name) for r in history.removals if r.status is RemovalStatus.STARTED}
    fresh = [a for a in due if (a.kind, a.name) not in known]
    touched = touching(due)
    for request in history.requests:
        if touched(request.seq, history.fulfilled(request)):
            if not _is_purged(ledger, request.request_id, begun=True):
                ledger.start_step(request.request_id, "", Step.PURGED)
    if fresh:
        ledger.start_removals(
            ((a.kind, a.name, a.items, a.bytes, a.since) for a in fresh), reason,
            sorted({note for a in fresh for note in a.notes}),
        )  # fmt: skip


def _finish(
    ledger: Ledger, found: list[Artefact], remove: Callable[[Removal], None]
) -> tuple[list[Removal], list[str]]:
    """Remove all that was begun, now or before a kill; what has come into use again is left alone."""
    needed = {a.name for a in found if a.kept}
    started = _unfinished(ledger)
    void = [r for r in started if r.name in needed]
    removed, refused = [], []
    for removal in started:
        if removal not in void:
            try:
                remove(removal)
                removed.append(removal)
            except (OSError, ValueError, ConfigError) as error:
                reason = getattr(error, "strerror", None) or error
                refused.append(f"{removal.kind} {removal.name}: {reason}")
    ledger.end_removals(void, RemovalStatus.VOID)
    ledger.end_removals(removed, RemovalStatus.DONE)
    return removed, refused


def _forget(ledger: Ledger, history: History, present: list[Artefact], before: datetime | None) -> None:
    """Let nothing lead from the requests that were closed `before` to what they have deleted, or to whom.

    What is still there of their images and pseudonyms goes first: nothing else tells whose they are.
    """
    own = {a.name for a in present if a.kind in (IMAGES, PSEUDONYMS)}
    closed = {r.seq: history.closed(r) for r in history.requests if f"request-{r.seq}" not in own}
    due = [s for s, at in closed.items() if at and (before is None or datetime.fromisoformat(at) <= before)]
    ledger.forget(sorted(ledger.remembered() & set(due)))
    if history.oldest_open == NEVER and not ledger.remembered() and ledger.requested_since(IDS_KEY):
        ledger.set_meta(IDS_KEY, secrets.token_hex(32))


def _unfinished(ledger: Ledger) -> list[Removal]:
    return [r for r in ledger.removals() if r.status is RemovalStatus.STARTED]


def _remove(folder: Path, ledger: Ledger, store: ObjectStore, removal: Removal) -> None:
    if removal.kind == WORK:
        _remove_path(folder / "work" / removal.name)
    elif removal.kind == FOLDER:
        _remove_path(folder / RELEASES / removal.name)
    elif removal.kind == IMAGES:
        _erase_images(folder / IMAGE_FILE, ledger.positions(removal.name))
    elif removal.kind != PSEUDONYMS:  # these are a row of the ledger: it goes with the removal's own row
        store.remove(Sha256(removal.name))


def _remove_path(path: Path) -> None:
    remove_path(path)
    sync_folder(path.parent)


def _erase_images(path: Path, positions: Iterable[int]) -> None:
    """Overwrite images with zeros, in place; whoever reads them now sees the old ones or zeros."""
    if not path.exists():
        return
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    size, start = images[0].nbytes, images.offset
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        for position in positions:
            _write_all(handle, bytes(size), start + position * size)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _whole(ledger: Ledger, history: History, found: list[Artefact], cost: Cost) -> list[str]:
    """End the step of every fulfilled request of which nothing is left; returns their ids."""
    whole, left = [], touching(found)
    for request in history.requests:
        fulfilled = history.fulfilled(request)
        if fulfilled and not left(request.seq, fulfilled) and not _is_purged(ledger, request.request_id):
            if not _is_purged(ledger, request.request_id, begun=True):
                ledger.start_step(request.request_id, "", Step.PURGED)
            ledger.finish_step(request.request_id, "", Step.PURGED, cost)
            whole.append(request.request_id)
    return whole


def _is_purged(ledger: Ledger, request_id: str, *, begun: bool = False) -> bool:
    """Whether the purge of a request is done, or at least `begun`."""
    step = ledger.step(request_id, "", Step.PURGED)
    return step is not None and (step.status is Status.DONE or (begun and step.status is Status.STARTED))


def _kept(things: Iterable[Artefact], retention: timedelta) -> list[Sum]:
    """What stays, by kind and reason; for what only waits the reason is the day."""
    return _sums((a.kind, a.kept or _waits(a, retention), a.items, a.bytes) for a in things)


def _waits(thing: Artefact, retention: timedelta) -> str:
    day = datetime.fromisoformat(thing.since) + retention
    return f"until {day:%Y-%m-%d}: younger than {retention.days} days"


def _sums(rows: Iterable[tuple[str, str, int, int]]) -> list[Sum]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for kind, reason, items, size in rows:
        sums[kind, reason][0] += items
        sums[kind, reason][1] += size
    return [{"kind": k, "count": n, "bytes": b, "reason": r} for (k, r), (n, b) in sorted(sums.items())]
