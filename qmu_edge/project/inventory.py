"""Everything in a project's folder that was made of the data, and why it is there: the map of a purge.

A thing in use is kept and says for what. Everything else says since when it has been superseded: an object
since the last of its uses ended (`qmu_edge.project.needs`), one that nothing names since it was written.

Nothing is listed from memory: what is present is what lies in the folder now. Times are RFC 3339, UTC.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from qmu_edge.io.digest import Sha256
from qmu_edge.io.names import is_file_name
from qmu_edge.project.history import History
from qmu_edge.project.needs import COMPARED, CURRENT, EXPORTED, PRETRAINED, RECEIPT, Use, fate, files_of, uses
from qmu_edge.project.project import STORE, Project
from qmu_edge.project.publish import LINK, RELEASES
from qmu_edge.project.records import PAPER
from qmu_edge.project.results import AUDIT
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.purges import FORGOTTEN, IMAGES, PSEUDONYMS
from qmu_edge.store.ledger.states import Pointer, RemovalStatus
from qmu_edge.store.objects import ObjectStore

NEVER_STORED: Final = ("calibration batches", "saliency masks", "golden inputs made of images")
OUTSIDE: Final = (
    "source images where the dataset lies",
    "model files on devices",
    "files and bundles exported to other folders",
    "backups of this folder",
    "documents of requests, such as req.json",
)
OBSERVED: Final = "logs of observers"  # outside, too; in the ledger where one was told anything
ON_A_HUB: Final = "bundles sent to a model hub"  # outside, too, and counted: see `recipients`
UNNAMED: Final = "object that nothing names"
WORK: Final = "training state"
FOLDER: Final = "release folder"
_TRAINING: Final = "training goes on from it"
A_REQUEST_IS_OPEN: Final = "a request is open"
STATES: Final = (
    "present", "purged", "never stored", "outside",
    *(f"kept: {reason}" for reason in (CURRENT, RECEIPT, COMPARED, _TRAINING, A_REQUEST_IS_OPEN)),
)  # fmt: skip
SENTENCES: Final = frozenset(
    {
        *NEVER_STORED, *OUTSIDE, OBSERVED, *STATES, "checkpoint", UNNAMED, WORK, FOLDER, IMAGES, PSEUDONYMS,
        EXPORTED, PRETRAINED, ON_A_HUB,
        "page", PAPER, "reference scores", "shards", "comparison", "reference report", "reference model",
        AUDIT,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artefact:
    """One thing that a purge could remove.

    Attributes:
        kind: What it is, in words.
        name: Digest of an object, name of a file or folder, or "request-3" for rows and images.
        items: How many things it stands for.
        bytes: Its size.
        since: When it was superseded; "" when it never was.
        kept: What it is still needed for; "" when it may go.
        notes: Keys of the ledger's `meta` that lead to it.
    """

    kind: str
    name: str
    items: int
    bytes: int
    since: str
    kept: str
    notes: tuple[str, ...] = ()


def inventory(project: Project, history: History) -> list[Artefact]:
    """Everything that lies in the store or its rows, but for the ledger, the keys and the sample index."""
    begun = {r.name for r in history.removals if r.status is RemovalStatus.STARTED}
    files = files_of(project.results, project.store, unreadable=begun)
    named = uses(project.ledger, project.results, history, files)
    ledger = project.ledger
    return [
        *_objects(project.store, named),
        *_work(project.folder / "work", ledger, history, project.training()),
        *_folders(project.root, ledger, history),
        *_people(project.samples.path, ledger, history),
    ]


def _objects(store: ObjectStore, named: dict[Sha256, list[Use]]) -> Iterator[Artefact]:
    for digest in store:
        path = store.path(digest)
        found = named.get(digest) or [Use(UNNAMED, "", _written(path))]
        kept, since = fate(found)
        notes = tuple(sorted({u.note for u in found if u.note}))
        yield Artefact(found[0].kind, digest, 1, path.stat().st_size, since, kept, notes)


def _work(folder: Path, ledger: Ledger, history: History, training: str) -> Iterator[Artefact]:
    """States of unfinished training: needed while the same training can still go on."""
    needed = {training[:16]: _TRAINING, "reference": _TRAINING}
    open_ones = {r.request_id: r for r in history.requests if not history.closed(r)}
    for step in ledger.all_steps():
        if step.request_id in open_ones:
            needed[step.run[:16]] = f"request {open_ones[step.request_id].seq} is open"
    for path in _ours(folder):
        words = re.split(r"[-.]", path.name)
        kept = next((needed[w] for w in words if w and w in needed), "")
        yield Artefact(WORK, path.name, 1, _size(path), "" if kept else _written(path), kept)


def _folders(root: Path, ledger: Ledger, history: History) -> Iterator[Artefact]:
    """Folders of released files; the one behind the link stays even when the link is behind the ledger."""
    current = (ledger.current(Pointer.RELEASE) or "")[:16]
    linked = os.path.basename(os.path.realpath(root / LINK))
    ends = {digest[:16]: at for digest, at in history.superseded(Pointer.RELEASE)}
    for path in _ours(root / STORE / RELEASES):
        kept = CURRENT if path.name in (current, linked) else ""
        since = "" if kept else ends.get(path.name, _written(path))
        yield Artefact(FOLDER, path.name, 1, _size(path), since, kept)


def _ours(folder: Path) -> list[Path]:
    """What lies in a folder, but for what this program never writes: a purge leaves it alone."""
    return sorted(path for path in folder.iterdir() if is_file_name(path.name))


def _people(cache: Path, ledger: Ledger, history: History) -> Iterator[Artefact]:
    """Decoded images of deleted samples, and the pseudonyms of their subjects, request by request."""
    images = _cached(cache)
    places = ledger.erasable()
    for request in history.requests:
        rows = places.get(request.request_id, [])
        name, since = f"request-{request.seq}", history.closed(request)
        kept = "" if since else f"request {request.seq} is open"
        named = sum(has_subject for _, has_subject in rows)
        positions = [position for position, _ in rows]
        if images is not None and images[positions].any():
            size = len(positions) * images[0].nbytes
            yield Artefact(IMAGES, name, len(positions), size, since, kept)
        if named:
            yield Artefact(PSEUDONYMS, name, named, 64 * named, since, kept)
    back = ledger.positions(FORGOTTEN)  # erased once, and put back from a backup
    if images is not None and images[back].any():
        yield Artefact(IMAGES, FORGOTTEN, len(back), len(back) * images[0].nbytes, _written(cache), "")


def _cached(path: Path) -> np.ndarray | None:
    """All decoded images as a memory map, unchecked; None when there is no cache."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(p.lstat().st_size for p in inside if not p.is_dir())


def _written(path: Path) -> str:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat(timespec="milliseconds")
