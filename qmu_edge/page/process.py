"""The sections about what was done: methods and their cost, files, what else was made, dates, digests."""

from collections.abc import Iterable
from typing import Final

from qmu_edge.page import plots
from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import NOTHING, count, day, seconds, size
from qmu_edge.page.section import Section, Table
from qmu_edge.page.words import RESULTS
from qmu_edge.project.checklist import Line
from qmu_edge.project.inventory import OUTSIDE
from qmu_edge.receipt.statement import Artefact

_DUTY: Final = {
    "source images where the dataset lies": "delete the pictures there",
    "model files on devices": "send the new file, and make sure that the old one is replaced",
    "files and bundles exported to other folders": "tell whoever received them; delete or replace them",
    "backups of this folder": "let them run out, or delete them",
    "documents of requests, such as req.json": "delete them when the case is closed",
}


def tried(facts: Facts) -> Section:
    """The methods that were tried, and what they cost."""
    rungs = facts.predicate.rungs
    if not facts.tried:
        named = [(r.method, r.category, RESULTS[r.result]) for r in rungs]
        return Section(
            "tried", "What was tried", tables=[Table("Methods", ("method", "kind", "result"), named)]
        )
    kinds = {rung.method: rung.category for rung in rungs}
    rows = [
        (t.method, kinds.get(t.method, NOTHING), RESULTS.get(t.result, t.result), seconds(t.seconds),
         NOTHING if t.epochs is None else f"{t.epochs:.2f}", f"{t.peak_mb:,.0f}\u00a0MiB")
        for t in facts.tried
    ]  # fmt: skip
    head = ("method", "kind", "result", "time", "passes over the data", "memory")
    drawn = [(t.method, t.seconds, seconds(t.seconds)) for t in facts.tried]
    label = "Bars of seconds: " + "; ".join(f"{name}, {text}" for name, _, text in drawn)
    return Section(
        "tried", "What was tried, and what it cost",
        ["Methods are tried in this order until a file passes; time is of all their steps."],
        [("Time of each method", plots.bars(drawn, label))] if len(drawn) > 1 else [],
        [Table("Methods", head, rows)],
    )  # fmt: skip


def files(facts: Facts) -> Section:
    """Sizes of the files, and how fast the measured one ran."""
    metrics, found = facts.predicate.metrics, facts.predicate.metrics.evaluation
    before = facts.report.sizes.get("original", {}) if facts.report else {}
    rows = [
        (name, size(int(before[name])) if name in before else NOTHING, size(n))
        for name, n in metrics.bytes.items()
    ]
    images = sum(share.n for share in (found.fa, found.ra, found.ta, found.va) if share is not None)
    speed = (
        f"{images:,} images took {seconds(found.seconds)} under onnxruntime on the machine that measured: "
        f"{images / max(found.seconds, 1e-9):,.0f} a second."
    )
    return Section(
        "files",
        "Size and speed",
        [speed],
        tables=[Table("Files", ("file", "original", "this release"), rows)],
    )


def artefacts(facts: Facts) -> Section:
    """What else was made of the data, and what has become of it."""
    lines = facts.predicate.derived_artefacts
    tables = [_artefacts("When the receipt was written", lines, behind=facts.now is not None)]
    if facts.now is not None:
        tables.insert(0, _artefacts("Now", facts.now))
    text = ["What is present is removed by qmu-edge purge once it is superseded and its time is over."]
    return Section("artefacts", "What else was made of the pictures", text, tables=tables)


def _artefacts(title: str, lines: Iterable[Artefact | Line], *, behind: bool = False) -> Table:
    rows = [(a.kind, count(a.count), NOTHING if a.bytes is None else size(a.bytes), a.state) for a in lines]
    return Table(title, ("what", "how many", "size", "state"), rows, behind)


def recipients(facts: Facts) -> Section:
    """Who must be told: this tool sees no copies."""
    text = [
        "Whoever was given a copy of an earlier file, or of the pictures, has to be told of this deletion, "
        "unless that is impossible or out of proportion (GDPR Art. 19). This tool sees none of these copies:"
    ]
    return Section(
        "recipients", "Who must be told", text,
        tables=[Table("Out of reach", ("where", "what to do"), [(kind, _DUTY.get(kind, "delete it there"))
                                                               for kind in OUTSIDE])],
    )  # fmt: skip


def dates(facts: Facts) -> Section:
    """The clock of the request."""
    request, predicate = facts.predicate.request, facts.predicate
    met = {True: "yes", False: "no", None: "no deadline"}[request.deadline_met]
    rows = [
        ("received", day(request.received)), ("answer due", day(request.due)),
        ("file verified", day(predicate.completed)), ("receipt issued", day(predicate.issued)),
        ("deadline met", met),
    ]  # fmt: skip
    return Section("dates", "Dates", tables=[Table("Dates of the request", ("what", "when"), rows)])


def digests(facts: Facts) -> Section:
    """What pins all this down, and the command that checks it."""
    predicate, statement = facts.predicate, facts.statement
    rows = [
        ("receipt", facts.receipt), *((name, sha) for name, sha in statement.files.items()),
        ("network before", predicate.checkpoints.before or NOTHING),
        ("network after", predicate.checkpoints.after or NOTHING), ("recipe", predicate.recipe),
        ("the sets of images", predicate.split.digest), ("receipt before", predicate.previous or "none"),
    ]  # fmt: skip
    text = [
        f"Signed by key {facts.key} with {predicate.tool.name} {predicate.tool.version}. The signature is of "
        "the receipt; this page repeats what it says, adds what was measured beside it, and is not signed. "
        "Beside the files of the release, with a public key that you trust:"
    ]
    return Section(
        "digests", "How to check all this", text, tables=[Table("SHA-256", ("of", "digest"), rows)],
        command="sha256sum -c SHA256SUMS && qmu-edge receipt verify receipt.json --key key.pem",
    )  # fmt: skip


def limits(facts: Facts) -> Section:
    """What none of this proves, in the words of the receipt."""
    return Section("limits", "What this does not prove", list(facts.predicate.limits))
