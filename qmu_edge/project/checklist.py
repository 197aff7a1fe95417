"""What was made with the samples of a request, and what became of it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from qmu_edge.errors import LedgerError
from qmu_edge.project.inventory import (
    _CURRENT,
    _OPEN,
    NEVER_STORED,
    OUTSIDE,
    UNNAMED,
    Artefact,
    History,
    _digests,
    _files_of,
    inventory,
)
from qmu_edge.project.project import Project
from qmu_edge.store.ledger.purges import IMAGES, PSEUDONYMS, Removal
from qmu_edge.store.ledger.requests import RequestRow


def derived_artefacts(project: Project, request_id: str) -> list[dict[str, Any]]:
    """The checklist of a request: everything made with its samples, and what became of it.

    While the request is being served, everything stored counts but what this attempt has made; afterwards
    what was superseded by its receipt or before.

    Returns:
        Rows of kind, count, bytes and state: "present", "purged", "kept: ..." with the reason,
        "never stored" or "outside" (count and bytes None: this tool cannot see it).

    Raises:
        LedgerError: There is no such request.
    """
    return derived_artefacts_of(project, [request_id])[request_id]


def derived_artefacts_of(project: Project, request_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The checklists of many requests from one look at the store.

    Raises:
        LedgerError: There is no such request.
    """
    history = History(project)
    found, known = inventory(project, history), {r.request_id: r for r in history.requests}
    if unknown := [i for i in request_ids if i not in known]:
        raise LedgerError(f"ledger {project.ledger.path}: no request {unknown[0]!r}")
    return {i: checklist(project, history, found, known[i]) for i in request_ids}


def checklist(
    project: Project, history: History, found: list[Artefact], request: RequestRow
) -> list[dict[str, Any]]:
    """The same from an inventory."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    states: list[tuple[Artefact | Removal, str]] = [
        (a, f"kept: {_impersonal(a.kept)}" if a.kept and history.served(request) else "present")
        for a in _concerned(project, history, found, request)
    ]
    until = history.served(request) or "~"
    removed = [r for r in history.removals if r.status == "done" and r.since <= until]
    states += [(r, "purged") for r in removed]
    for thing, state in states:
        if _may_be_of(request, thing):
            sums[thing.kind, state][0] += thing.items
            sums[thing.kind, state][1] += thing.bytes
    rows = [
        {"kind": kind, "count": items, "bytes": size, "state": state}
        for (kind, state), (items, size) in sorted(sums.items())
    ]
    rows += [{"kind": kind, "count": 0, "bytes": 0, "state": "never stored"} for kind in NEVER_STORED]
    return rows + [{"kind": kind, "count": None, "bytes": None, "state": "outside"} for kind in OUTSIDE]


def _impersonal(kept: str) -> str:
    """A reason without the number of the request in it; receipts hold fixed sentences only."""
    return _OPEN if kept.startswith("request ") else kept


def touching(found: list[Artefact]) -> Callable[[int, str], bool]:
    """Tell whether anything of an inventory was made with the samples of the request of this number.

    The second argument is when it was served, "" for never. Quick, for thousands of requests.
    """
    old = [a for a in found if _is_past(a)]
    own = {a.name for a in old if a.kind in (IMAGES, PSEUDONYMS)}
    first = min((a.since for a in old if a.kind not in (IMAGES, PSEUDONYMS)), default="~")
    return lambda number, served: bool(served) and (first <= served or f"request-{number}" in own)


def _is_past(thing: Artefact) -> bool:
    """Whether a thing is of an earlier network or of a deleted person."""
    return thing.kind != "receipt" and thing.kept != _CURRENT and thing.since != ""


def _concerned(
    project: Project, history: History, found: list[Artefact], request: RequestRow
) -> list[Artefact]:
    """What of an inventory was made with the samples of a request."""
    if until := history.served(request):
        return [a for a in found if _is_past(a) and a.since <= until and _may_be_of(request, a)]
    made = _made_by(project, request)
    others = [a for a in found if a.kind not in ("receipt", UNNAMED) and a.name not in made]
    return [a for a in others if _may_be_of(request, a)]


def _may_be_of(request: RequestRow, thing: Artefact | Removal) -> bool:
    """Images and pseudonyms are of one request; everything else is of all that came before it."""
    return thing.kind not in (IMAGES, PSEUDONYMS) or thing.name == f"request-{request.seq}"


def _made_by(project: Project, request: RequestRow) -> set[str]:
    """What the attempt has made that is about to get its receipt: the network without the samples."""
    steps = project.ledger.steps(request.request_id)
    runs = {s.run for s in steps if s.step == "receipted"}
    late = [s.detail for s in steps if s.run in runs and s.step in ("requantized", "exported", "verified")]
    made = {digest for detail in late for _, digest in _digests(detail)}
    files = [f for d in late if "release" in d for f in _files_of(project, d["release"])]
    return made.union(files)
