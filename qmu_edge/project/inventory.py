"""Everything in a store that was made of the data, and why each thing is there: the purge's map.

The walk starts from the ledger: what is current, what receipts and requests name, what earlier results are
noted. A thing in use is kept and says for what. Everything else says since when it has been superseded:
an object since the last of its uses ended, an object that nothing names since it was written.

Nothing is listed from memory: what is present is what lies in the folder now. Times are RFC 3339, UTC.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.project.project import IMAGES as IMAGE_FILE
from qmu_edge.project.project import Project
from qmu_edge.store.ledger.purges import IMAGES, PSEUDONYMS
from qmu_edge.store.ledger.requests import RequestRow

NEVER_STORED: Final = ("calibration batches", "saliency masks", "plots", "golden inputs made of images")
OUTSIDE: Final = (
    "source images where the dataset lies",
    "model files on devices",
    "files and bundles exported to other folders",
    "backups of this folder",
)
CHECKPOINT: Final = "checkpoint"
UNNAMED: Final = "object that nothing names"
WORK: Final = "training state"
FOLDER: Final = "release folder"
_KINDS: Final = {"checkpoint": CHECKPOINT, "files": "exported file"}  # where a field's name is not the word
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ENDED: Final = frozenset({"completed"})
_CURRENT: Final = "it is current"
_RECEIPT: Final = "receipts are kept for good"
_COMPARED: Final = "an open request may compare with it"
_TRAINING: Final = "training goes on from it"
_OPEN: Final = "a request is open"
STATES: Final = (
    "present", "purged", "never stored", "outside",
    *(f"kept: {reason}" for reason in (_CURRENT, _RECEIPT, _COMPARED, _TRAINING, _OPEN)),
)  # fmt: skip
SENTENCES: Final = frozenset(
    {
        *NEVER_STORED,
        *OUTSIDE,
        *STATES,
        CHECKPOINT,
        UNNAMED,
        WORK,
        FOLDER,
        IMAGES,
        PSEUDONYMS,
        *_KINDS.values(),
    }
    | {"reference report", "reference model"}
)


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


@dataclass(frozen=True, slots=True)
class _Use:
    """One reason for which an object is there: what it is, until when, or for what it is needed."""

    kind: str
    since: str
    kept: str = ""
    note: str = ""


class History:
    """When things changed, read once from the events of a ledger."""

    def __init__(self, project: Project) -> None:
        """Read the events and the requests."""
        self.pointers: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.noted: dict[str, str] = {}
        self._first: dict[int, str] = {}
        self._last: dict[int, str] = {}
        ledger = project.ledger
        for at, what, text in ledger.rows("SELECT at, what, body FROM events ORDER BY seq"):
            body = json.loads(text)
            if what == "current":
                self.pointers[body["key"]].append((body["digest"], at))
            elif what == "meta":
                self.noted[body["key"]] = at
            elif what == "request":
                self._first.setdefault(body["key"], at)
                self._last[body["key"]] = at
        issued = ledger.rows("SELECT request_id, receipt_digest FROM receipts WHERE request_id IS NOT NULL")
        switched = dict(self.pointers.get("receipt", []))
        self._served = {request_id: switched[digest] for request_id, digest in issued}
        self._meet_in_runs(project)
        self.requests = ledger.requests()
        self.removals = ledger.removals()
        open_ones = [r for r in self.requests if not self.closed(r)]
        self.oldest_open = min((self._first[r.seq] for r in open_ones), default="~")

    def _meet_in_runs(self, project: Project) -> None:
        """Requests that were served together were served at one moment, the last of them."""
        together: dict[str, list[str]] = defaultdict(list)
        for run, request_id in project.ledger.rows(
            "SELECT run, request_id FROM steps WHERE step = 'receipted'"
        ):
            if request_id in self._served:
                together[run].append(request_id)
        for ids in together.values():
            self._served.update(dict.fromkeys(ids, max(self._served[i] for i in ids)))

    def served(self, request: RequestRow) -> str:
        """When the request's receipt was issued; "" while it has none."""
        return self._served.get(request.request_id, "")

    def closed(self, request: RequestRow) -> str:
        """When nothing more was to be done for the request; "" while it is open."""
        ended = self._last[request.seq] if request.state in _ENDED else ""
        return self.served(request) or ended


def inventory(project: Project, history: History) -> list[Artefact]:
    """Everything that lies in the store or its rows, but for the ledger, the keys and the sample index."""
    return [
        *_objects(project, _uses(project, history)),
        *_work(project, history),
        *_folders(project, history),
        *_people(project, history),
    ]


def _uses(project: Project, history: History) -> dict[str, list[_Use]]:
    uses: dict[str, list[_Use]] = defaultdict(list)
    for walk in (_pointed_at, _receipts, _of_requests, _noted):
        for digest, use in walk(project, history):
            uses[digest].append(use)
    for digest, use in list(_exports(project, history, uses)):
        uses[digest].append(use)
    releases = [d for d, found in uses.items() if any(u.kind == "release" for u in found)]
    for digest in releases:
        for file in _files_of(project, digest):
            uses[file] += [_Use("exported file", u.since, u.kept) for u in uses[digest]]
    return uses


def _pointed_at(project: Project, history: History) -> Iterator[tuple[str, _Use]]:
    for name, switches in history.pointers.items():
        for digest, end in _ends(switches):
            yield digest, _Use(name, end)
        yield switches[-1][0], _Use(name, "", _CURRENT)


def _receipts(project: Project, history: History) -> Iterator[tuple[str, _Use]]:
    for (digest,) in project.ledger.rows("SELECT receipt_digest FROM receipts"):
        yield digest, _Use("receipt", "", _RECEIPT)


def _of_requests(project: Project, history: History) -> Iterator[tuple[str, _Use]]:
    """What the steps of each request name; the report that the current receipt rests on is current too."""
    released = {run for (run,) in project.ledger.rows(_RELEASED)}
    for request in history.requests:
        closed = history.closed(request)
        kept = "" if closed else f"request {request.seq} is open"
        for step in project.ledger.steps(request.request_id):
            for name, digest in _digests(step.detail):
                rests = name == "report" and step.run in released
                yield digest, _Use(name, closed, _CURRENT if rests else kept)


_RELEASED: Final = """SELECT s.run FROM current c JOIN receipts r ON r.receipt_digest = c.digest
    JOIN steps s ON s.request_id = r.request_id WHERE c.name = 'receipt' AND s.step = 'receipted'"""


def _digests(document: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every digest in a JSON value, with the name of the field that it stands in."""
    if isinstance(document, str) and _DIGEST.fullmatch(document):
        yield _KINDS.get(name, name), document
    elif isinstance(document, Mapping):
        for key, value in document.items():
            yield from _digests(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from _digests(value, name)


def _noted(project: Project, history: History) -> Iterator[tuple[str, _Use]]:
    """Trainings and reference models of earlier runs; the latter stay while a request may need them."""
    for kind, _, key, value in _notes(project):
        at = history.noted[key]
        needed = kind == "reference" and at >= history.oldest_open
        for name, digest in _digests(value, kind):
            what = name if kind == "trained" else f"reference {'report' if name == 'report' else 'model'}"
            yield digest, _Use(what, at, _COMPARED if needed else "", key)


def _exports(
    project: Project, history: History, uses: Mapping[str, list[_Use]]
) -> Iterator[tuple[str, _Use]]:
    """Releases share the fate of the checkpoint that they were made of."""
    for kind, checkpoint, key, value in _notes(project):
        if kind == "release":
            kept, since = _fate(uses.get(checkpoint) or [_Use("", history.noted[key])])
            for name, digest in _digests(value, kind):
                yield digest, _Use(name, since, kept, key)


def _notes(project: Project) -> Iterator[tuple[str, str, str, Any]]:
    """Earlier results in `meta`: kind, what the key names next, key, value."""
    for key, text in project.ledger.rows("SELECT key, value FROM meta"):
        kind, _, rest = key.partition(":")
        if kind in ("trained", "reference", "release"):
            yield kind, rest.partition(":")[0], key, json.loads(text)


def _files_of(project: Project, release: str) -> Iterator[str]:
    if project.store.path(release).exists():
        yield from json.loads(project.store.get_bytes(release))["files"].values()


def _fate(uses: list[_Use]) -> tuple[str, str]:
    """Why a thing is kept, "" when nothing keeps it, and since when it is superseded."""
    needs = [u.kept for u in uses if u.kept]
    return (_CURRENT if _CURRENT in needs else "".join(needs[:1])), max(u.since for u in uses)


def _objects(project: Project, uses: Mapping[str, list[_Use]]) -> Iterator[Artefact]:
    for digest in project.store:
        path = project.store.path(digest)
        found = uses.get(digest) or [_Use(UNNAMED, _written(path))]
        kept, since = _fate(found)
        notes = tuple(sorted({u.note for u in found if u.note}))
        yield Artefact(found[0].kind, digest, 1, path.stat().st_size, since, kept, notes)


def _work(project: Project, history: History) -> Iterator[Artefact]:
    """States of unfinished training: needed while the same training can still go on."""
    needed = {project.training()[:16]: _TRAINING}
    for request in history.requests:
        if not history.closed(request):
            for step in project.ledger.steps(request.request_id):
                needed[step.run[:16]] = f"request {request.seq} is open"
    for path in sorted((project.folder / "work").iterdir()):
        words = re.split(r"[-.]", path.name)
        kept = next((needed[w] for w in words if w and w in needed), "")
        yield Artefact(WORK, path.name, 1, _size(path), "" if kept else _written(path), kept)


def _folders(project: Project, history: History) -> Iterator[Artefact]:
    """Folders of released files; the one behind the link stays even when the link is behind the ledger."""
    current = (project.ledger.current("release") or "")[:16]
    linked = os.path.basename(os.path.realpath(project.root / "release"))
    ends = {digest[:16]: at for digest, at in _ends(history.pointers.get("release", []))}
    for path in sorted((project.folder / "releases").iterdir()):
        kept = _CURRENT if path.name in (current, linked) else ""
        since = "" if kept else ends.get(path.name, _written(path))
        yield Artefact(FOLDER, path.name, 1, _size(path), since, kept)


def _ends(switches: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((a[0], b[1]) for a, b in pairwise(switches))


def _people(project: Project, history: History) -> Iterator[Artefact]:
    """Decoded images of deleted samples, and the pseudonyms of their subjects, request by request."""
    images = _cached(project)
    places = project.ledger.erasable()
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


def _cached(project: Project) -> np.ndarray | None:
    """All decoded images as a memory map, unchecked; None when there is no cache."""
    try:
        found: np.ndarray = np.load(project.folder / IMAGE_FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(p.lstat().st_size for p in inside if not p.is_dir())


def _written(path: Path) -> str:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat(timespec="milliseconds")
