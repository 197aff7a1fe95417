"""What was made with the samples of a request, and what became of it."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict

from qmu_edge.errors import LedgerError
from qmu_edge.project.history import NEVER, History
from qmu_edge.project.inventory import (
    A_REQUEST_IS_OPEN,
    NEVER_STORED,
    OBSERVED,
    ON_A_HUB,
    OUTSIDE,
    UNNAMED,
    Artefact,
)
from qmu_edge.project.needs import CURRENT
from qmu_edge.project.recipients import Recipients, Upload
from qmu_edge.project.records import StepResult
from qmu_edge.project.results import Results
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.purges import IMAGES, PSEUDONYMS, Removal
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import RemovalStatus, Step

_OF_THE_ATTEMPT = (Step.REQUANTIZED, Step.EXPORTED, Step.VERIFIED)


class LineJson(TypedDict):
    """A `Line`."""

    kind: str
    count: int | None
    bytes: int | None
    state: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a checklist.

    Attributes:
        kind: What was made, in words.
        count, bytes: How many things, and their size; None for what this tool cannot see.
        state: "present", "purged", "kept: ..." with the reason, "never stored" or "outside".
    """

    kind: str
    count: int | None
    bytes: int | None
    state: str

    def to_json(self) -> LineJson:
        """Ready for JSON."""
        return {"kind": self.kind, "count": self.count, "bytes": self.bytes, "state": self.state}


def checklists(
    ledger: Ledger,
    results: Results,
    history: History,
    found: list[Artefact],
    request_ids: Iterable[str],
) -> dict[str, list[Line]]:
    """The checklists of requests: everything made with their samples, and what became of it.

    While a request is being fulfilled, everything stored counts but what this attempt has made; afterwards
    what was superseded by its receipt or before.

    Args:
        ledger: Of the project.
        results: Likewise.
        history: Of the same ledger.
        found: The inventory.
        request_ids: Of requests that the ledger knows.

    Raises:
        LedgerError: There is no such request.
    """
    known = {r.request_id: r for r in history.requests}
    outside = (*OUTSIDE, OBSERVED) if ledger.meta(OBSERVED) else OUTSIDE
    sent = Recipients(ledger).there()
    lists = {}
    for request_id in request_ids:
        if request_id not in known:
            raise LedgerError(f"ledger {ledger.path}: no request {request_id!r}")
        request = known[request_id]
        made = set() if history.fulfilled(request) else _made_by(ledger, results, request)
        lists[request_id] = [*_checklist(history, found, request, made), *_sent(sent, history, request)]
        lists[request_id] += [Line(kind, None, None, "outside") for kind in outside]
    return lists


def _checklist(history: History, found: list[Artefact], request: RequestRow, made: set[str]) -> list[Line]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    states: list[tuple[Artefact | Removal, str]] = [
        (a, f"kept: {_impersonal(a.kept)}" if a.kept and history.fulfilled(request) else "present")
        for a in _concerned(history, found, request, made)
    ]
    until = history.fulfilled(request) or NEVER
    removed = [r for r in history.removals if r.status is RemovalStatus.DONE and r.since <= until]
    states += [(r, "purged") for r in removed]
    for thing, state in states:
        if _may_be_of(request, thing):
            sums[thing.kind, state][0] += thing.items
            sums[thing.kind, state][1] += thing.bytes
    lines = [Line(kind, items, size, state) for (kind, state), (items, size) in sorted(sums.items())]
    return lines + [Line(kind, 0, 0, "never stored") for kind in NEVER_STORED]


def _sent(uploads: list[Upload], history: History, request: RequestRow) -> list[Line]:
    """What a model hub was sent before the request was fulfilled, and nobody has said is taken down."""
    until = history.fulfilled(request) or NEVER
    sizes = [upload.bytes for upload in uploads if upload.begun <= until]
    return [Line(ON_A_HUB, len(sizes), sum(sizes), "outside")] if sizes else []


def _impersonal(kept: str) -> str:
    """A reason without the number of the request in it; receipts hold fixed sentences only."""
    return A_REQUEST_IS_OPEN if kept.startswith("request ") else kept


def touching(found: list[Artefact]) -> Callable[[int, str], bool]:
    """Tell whether anything of an inventory was made with the samples of the request of this number.

    The second argument is when it was fulfilled, "" for never. Quick, for thousands of requests.
    """
    old = [a for a in found if _is_past(a)]
    own = {a.name for a in old if a.kind in (IMAGES, PSEUDONYMS)}
    first = min((a.since for a in old if a.kind not in (IMAGES, PSEUDONYMS)), default=NEVER)
    return lambda number, fulfilled: bool(fulfilled) and (first <= fulfilled or f"request-{number}" in own)


def _is_past(thing: Artefact) -> bool:
    """Whether a thing is of an earlier network or of a deleted person."""
    return thing.kind != "receipt" and thing.kept != CURRENT and thing.since != ""


def _concerned(
    history: History, found: list[Artefact], request: RequestRow, made: set[str]
) -> list[Artefact]:
    """What of an inventory was made with the samples of a request."""
    if until := history.fulfilled(request):
        return [a for a in found if _is_past(a) and a.since <= until and _may_be_of(request, a)]
    others = [a for a in found if a.kind not in ("receipt", UNNAMED) and a.name not in made]
    return [a for a in others if _may_be_of(request, a)]


def _may_be_of(request: RequestRow, thing: Artefact | Removal) -> bool:
    """Images and pseudonyms are of one request; everything else is of all that came before it."""
    return thing.kind not in (IMAGES, PSEUDONYMS) or thing.name == f"request-{request.seq}"


def _made_by(ledger: Ledger, results: Results, request: RequestRow) -> set[str]:
    """What the attempt has made that is about to get its receipt: the network without the samples."""
    steps = ledger.steps(request.request_id)
    runs = {s.run for s in steps if s.step == Step.RECEIPTED}
    late = [StepResult.parse(s.detail) for s in steps if s.run in runs and s.step in _OF_THE_ATTEMPT]
    made = {digest for result in late for _, digest in result.objects()}
    files = [f for r in late if r.release is not None for f in results.release(r.release).stored()]
    return made.union(files)
