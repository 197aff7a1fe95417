"""What every object of a store is there for: the one rule of purge, checklists and doctor.

The walk starts from the ledger: what is current, what receipts and requests name, what earlier results are
noted. Each of these is a use. An object with a use in force is kept; the others have been superseded since
the last of their uses ended.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.project.history import History
from qmu_edge.project.records import PAPER, StepResult
from qmu_edge.project.results import AUDIT, BANK, REFERENCE, RELEASE, SHARDS, Results
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer, Step

EXPORTED: Final = "exported file"
PRETRAINED: Final = "pretrained weights"
CURRENT: Final = "it is current"
RECEIPT: Final = "receipts are kept for good"
COMPARED: Final = "an open request may compare with it"


@dataclass(frozen=True, slots=True)
class Use:
    """One reason for which an object is there.

    Attributes:
        kind: What the object is, in words.
        by: What names it, for messages; no sample and no person.
        since: When the use ended; "" when it never has.
        kept: What the object is still needed for; "" for nothing.
        note: The key of `meta` that leads to it, or "".
    """

    kind: str
    by: str
    since: str
    kept: str = ""
    note: str = ""


def uses(
    ledger: Ledger, results: Results, history: History, files: Callable[[Sha256], Iterable[Sha256]]
) -> dict[Sha256, list[Use]]:
    """All uses of each digest that the ledger names.

    Args:
        ledger: Open.
        results: Of the same project.
        history: Of the same ledger.
        files: Digests of the files of a release by its digest, see `files_of`.
    """
    found: dict[Sha256, list[Use]] = defaultdict(list)
    for walk in (
        _current(history),
        _receipts(ledger),
        _steps(ledger, history),
        _notes(results, history),
        _pretrained(results),
    ):
        for digest, use in walk:
            found[digest].append(use)
    for digest, use in list(_releases(results, history, found)):
        found[digest].append(use)
    for digest in [d for d, named in found.items() if any(u.kind == "release" for u in named)]:
        for file in files(digest):
            found[file] += [
                replace(u, kind=EXPORTED, by=f"release {digest[:12]}", note="") for u in found[digest]
            ]
    return found


def files_of(
    results: Results, store: Iterable[Sha256], *, unreadable: Container[str]
) -> Callable[[Sha256], Iterable[Sha256]]:
    """How to find the files of a release.

    Args:
        results: Reads the release.
        store: Digests of all objects that are there.
        unreadable: Releases that may be damaged, or without their key; another one raises `IntegrityError`.
    """
    there = set(store)

    def files(release: Sha256) -> Iterable[Sha256]:
        try:
            return results.release(release).stored() if release in there else ()
        except IntegrityError:
            if release not in unreadable:
                raise
            return ()

    return files


def fate(found: list[Use]) -> tuple[str, str]:
    """Why a thing is kept, "" when nothing keeps it, and since when it is superseded."""
    kept = [u.kept for u in found if u.kept]
    return (CURRENT if CURRENT in kept else "".join(kept[:1])), max(u.since for u in found)


def _current(history: History) -> Iterator[tuple[Sha256, Use]]:
    for name in Pointer:
        for digest, until in history.superseded(name):
            yield digest, Use(name, f"the {name} before", until)
    for current, digest in history.current().items():
        yield digest, Use(current, f"the current {current}", "", CURRENT)


def _receipts(ledger: Ledger) -> Iterator[tuple[Sha256, Use]]:
    for row in ledger.receipts():
        yield row.digest, Use("receipt", f"receipt {row.seq}", "", RECEIPT)


def _steps(ledger: Ledger, history: History) -> Iterator[tuple[Sha256, Use]]:
    """What the steps of each request name; report and papers of a run are current as long as its receipt."""
    current, replaced = ledger.current_runs(), _replaced(ledger, history)
    for step in ledger.all_steps():
        request = history.request(step.request_id)
        closed = history.closed(request)
        kept = "" if closed else f"request {request.seq} is open"
        by = f"step {step.step} of request {request.seq}"
        for name, digest in StepResult.parse(step.detail).objects():
            shown = name in ("report", "page", PAPER)
            since = max(closed, replaced.get(step.run, "")) if shown else closed
            yield digest, Use(name, by, since, CURRENT if shown and step.run in current else kept)


def _replaced(ledger: Ledger, history: History) -> dict[str, str]:
    """When the last receipt of each run was followed by the next one, for runs whose receipts all were."""
    until = dict(history.superseded(Pointer.RECEIPT))
    receipts = {row.request_id: until.get(row.digest, "") for row in ledger.receipts()}
    found: dict[str, str] = {}
    for step in ledger.all_steps():
        if step.step == Step.RECEIPTED:
            found[step.run] = max(found.get(step.run, ""), receipts.get(step.request_id, ""))
    return found


def _notes(results: Results, history: History) -> Iterator[tuple[Sha256, Use]]:
    """Trainings and references: those of a request stay while one may need them, the bank's for good."""
    for note in results.notes():
        if note.kind not in (RELEASE, AUDIT):
            at, kept = history.noted(note.key), ""
            if note.kind in (BANK, SHARDS):
                at, kept = "", CURRENT
            elif note.kind == REFERENCE and at >= history.oldest_open:
                kept = COMPARED
            for kind, digest in note.objects:
                yield digest, Use(kind, note.kind, at, kept, note.key)


def _pretrained(results: Results) -> Iterator[tuple[Sha256, Use]]:
    """What retraining starts from was made of none of the samples, as it is declared, and stays."""
    if digest := results.pretrained():
        yield digest, Use(PRETRAINED, "the adoption of the network", "", CURRENT)


def _releases(
    results: Results, history: History, found: Mapping[Sha256, list[Use]]
) -> Iterator[tuple[Sha256, Use]]:
    """Releases, and audits of them, share the fate of the checkpoint that they were made of."""
    for note in results.notes():
        if note.kind in (RELEASE, AUDIT):
            made_of = found.get(Sha256(note.source)) or [Use("", note.kind, history.noted(note.key))]
            kept, since = fate(made_of)
            for kind, digest in note.objects:
                yield digest, Use(kind, note.kind, since, kept, note.key)
