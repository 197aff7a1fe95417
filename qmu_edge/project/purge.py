"""Remove what earlier models and deleted people have left in the store, once nothing needs it any more.

Contract. A thing goes when nothing is known to need it (`qmu_edge.project.inventory`) and it has been
superseded for `policy.retention_days`. The order is: intents into the ledger, then the files, then the
ledger's "done"; a purge that was killed is finished by the next one. Never removed: what is current, what an
open request needs, every receipt, the ledger. A receipt can therefore be verified after any purge.

What people have left: the decoded images of deleted samples become zeros in the cache, and the pseudonyms of
their subjects become empty in the sample index. Ids and content digests of the samples stay, in tombstones,
because without them the same images could be brought back unnoticed.

Trap: removing a file does not overwrite the disk's blocks, and nothing here reaches outside the folder.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from qmu_edge.errors import ConfigError
from qmu_edge.io.files import sync_folder
from qmu_edge.machine.cost import accounted
from qmu_edge.project.checklist import checklist, touching
from qmu_edge.project.inventory import FOLDER, OUTSIDE, WORK, Artefact, History, inventory
from qmu_edge.project.project import IMAGES as IMAGE_FILE
from qmu_edge.project.project import Project
from qmu_edge.store.ledger.purges import IMAGES, PSEUDONYMS, Removal

PURGED: Final = "purged"  # the step of a request


def purge(project: Project, now: datetime, *, at_once: bool = False) -> dict[str, Any]:
    """Remove everything that is due.

    Args:
        project: Open, and held by the caller.
        now: The moment to count the retention window from.
        at_once: Do not wait for the window; what is needed stays all the same.

    Returns:
        `removed` and `kept` by kind, `requests` that are purged whole now, and what is `outside`.

    Raises:
        ConfigError: Something cannot be removed; the rest is, and the next purge tries again.
        IntegrityError: An object that has to be read is damaged.
    """
    begun = _finish(project, inventory(project, History(project))) if _unfinished(project) else ([], [])
    history = History(project)
    found = inventory(project, history)
    due, left = _parted(project, found, now, at_once)
    _begin(project, history, found, due, "asked for" if at_once else "retention window over")
    (removed, refused), cost = accounted(lambda: _finish(project, found))
    removed = [*begun[0], *removed]
    whole = _whole(project, cost)
    project.ledger.forget_deleted_pages()
    if refused:
        raise ConfigError(
            f"{len(refused)} of {len(removed) + len(refused)} things could not be removed, the first is "
            f"{refused[0]}; run qmu-edge purge again"
        )
    return {
        "removed": _sums((r.kind, r.reason, r.items, r.bytes) for r in removed),
        "kept": _kept(project, left, now),
        "requests": whole, "outside": list(OUTSIDE),
    }  # fmt: skip


def preview(project: Project, now: datetime, *, at_once: bool = False) -> dict[str, Any]:
    """What `purge` would remove, thing by thing, what it would keep, and every open checklist."""
    history = History(project)
    found = inventory(project, history)
    due, left = _parted(project, found, now, at_once)
    open_ones = [r for r in history.requests if not _step_is(project, r.request_id, "done")]
    return {
        "dry_run": True,
        "retention_days": project.recipe.policy.retention_days,
        "unfinished": len(_unfinished(project)),
        "remove": [{"kind": a.kind, "name": a.name, "bytes": a.bytes, "since": a.since} for a in due],
        "kept": _kept(project, left, now),
        "requests": {r.request_id: checklist(project, history, found, r) for r in open_ones},
        "outside": list(OUTSIDE),
    }


def _parted(
    project: Project, found: list[Artefact], now: datetime, at_once: bool
) -> tuple[list[Artefact], list[Artefact]]:
    """What is due, and what stays for now."""
    parts: tuple[list[Artefact], list[Artefact]] = ([], [])
    for thing in found:
        is_due = not thing.kept and (at_once or _day_of_removal(project, thing) <= now)
        parts[0 if is_due else 1].append(thing)
    return parts


def _day_of_removal(project: Project, thing: Artefact) -> datetime:
    return datetime.fromisoformat(thing.since) + timedelta(days=project.recipe.policy.retention_days)


def _begin(
    project: Project, history: History, found: list[Artefact], due: list[Artefact], reason: str
) -> None:
    """Write down what goes, and that the requests which it belongs to are being purged."""
    ledger = project.ledger
    known = {(r.kind, r.name) for r in history.removals if r.status == "started"}
    fresh = [a for a in due if (a.kind, a.name) not in known]
    touched = touching(due)
    for request in history.requests:
        if touched(request.seq, history.served(request)):
            if not _step_is(project, request.request_id, "started", "done"):
                ledger.start_step(request.request_id, "", PURGED)
    if fresh:
        ledger.start_removals(
            ((a.kind, a.name, a.items, a.bytes, a.since) for a in fresh), reason,
            sorted({note for a in fresh for note in a.notes}),
        )  # fmt: skip


def _finish(project: Project, found: list[Artefact]) -> tuple[list[Removal], list[str]]:
    """Remove all that was begun, now or before a kill; what has come into use again is left alone."""
    needed = {a.name for a in found if a.kept}
    started = _unfinished(project)
    void = [r for r in started if r.name in needed]
    removed, refused = [], []
    for removal in started:
        if removal not in void:
            try:
                _remover(project, removal.kind)(project, removal.name)
                removed.append(removal)
            except (OSError, ValueError, ConfigError) as error:
                reason = getattr(error, "strerror", None) or error
                refused.append(f"{removal.kind} {removal.name}: {reason}")
    project.ledger.end_removals(void, "void")
    project.ledger.end_removals(removed, "done")
    return removed, refused


def _unfinished(project: Project) -> list[Removal]:
    return [r for r in project.ledger.removals() if r.status == "started"]


def _remover(project: Project, kind: str) -> Callable[[Project, str], None]:
    return _REMOVERS.get(kind, lambda p, name: p.store.remove(name))


def _remove_work(project: Project, name: str) -> None:
    path = project.folder / "work" / name
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _remove_folder(project: Project, name: str) -> None:
    path = project.folder / "releases" / name
    if path.exists():
        shutil.rmtree(path)
    sync_folder(path.parent)


def _erase_images(project: Project, name: str) -> None:
    """Overwrite the images of a request with zeros, in place; whoever reads them now sees no third thing."""
    path = project.folder / IMAGE_FILE
    if not path.exists():
        return
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    size, start = images[0].nbytes, images.offset
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        for position in project.ledger.positions(name):
            _write_all(handle, bytes(size), start + position * size)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


_REMOVERS: Final[dict[str, Callable[[Project, str], None]]] = {
    WORK: _remove_work,
    FOLDER: _remove_folder,
    IMAGES: _erase_images,
    PSEUDONYMS: lambda project, name: None,  # a row of the ledger: it goes with the removal's own row
}


def _whole(project: Project, cost: dict[str, float]) -> list[str]:
    """End the step of every served request of which nothing is left; returns their ids."""
    history = History(project)
    ledger, whole, left = project.ledger, [], touching(inventory(project, history))
    for request in history.requests:
        served = history.served(request)
        if served and not left(request.seq, served) and not _step_is(project, request.request_id, "done"):
            if not _step_is(project, request.request_id, "started"):
                ledger.start_step(request.request_id, "", PURGED)
            ledger.finish_step(request.request_id, "", PURGED, cost)
            whole.append(request.request_id)
    return whole


def _step_is(project: Project, request_id: str, *statuses: str) -> bool:
    step = project.ledger.step(request_id, "", PURGED)
    return step is not None and step.status in statuses


def _kept(project: Project, things: Iterable[Artefact], now: datetime) -> list[dict[str, Any]]:
    """What stays, by kind and reason; for what only waits the reason is the day."""
    days = project.recipe.policy.retention_days
    return _sums(
        (a.kind, a.kept or f"until {_day_of_removal(project, a):%Y-%m-%d}: younger than {days} days",
         a.items, a.bytes)
        for a in things
    )  # fmt: skip


def _sums(rows: Iterable[tuple[str, str, int, int]]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for kind, reason, items, size in rows:
        sums[kind, reason][0] += items
        sums[kind, reason][1] += size
    return [{"kind": k, "count": n, "bytes": b, "reason": r} for (k, r), (n, b) in sorted(sums.items())]
