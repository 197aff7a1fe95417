"""The sections about what was done: methods and their cost, files, what else was made, dates, digests."""

from collections.abc import Iterable
from typing import Final

from qmu_edge.page import plots
from qmu_edge.page.facts import Facts
from qmu_edge.page.language import NOTHING, Language
from qmu_edge.page.section import Section, Table
from qmu_edge.project.checklist import Line
from qmu_edge.project.inventory import ON_A_HUB, OUTSIDE
from qmu_edge.receipt.statement import Artefact

_DUTY: Final = {
    "source images where the dataset lies": "source",
    "model files on devices": "devices",
    "files and bundles exported to other folders": "exported",
    "backups of this folder": "backups",
    "documents of requests, such as req.json": "documents",
    ON_A_HUB: "hub",
}


def tried(facts: Facts, say: Language) -> Section:
    """The methods that were tried, and what they cost."""
    rungs, named = facts.predicate.rungs, (say("tried.method"), say("tried.kind"), say("tried.result"))
    if not facts.tried:
        told = [(r.method, say.translated(r.category), _result(r.result, say)) for r in rungs]
        return Section("tried", say("tried.title"), tables=[Table(say("tried.table"), named, told)])
    kinds = {rung.method: say.translated(rung.category) for rung in rungs}
    rows = [
        (t.method, kinds.get(t.method, NOTHING), _result(t.result, say), say.seconds(t.seconds),
         NOTHING if t.epochs is None else say.number(t.epochs, 2), f"{say.count(t.peak_mb)}\u00a0MiB")
        for t in facts.tried
    ]  # fmt: skip
    head = (*named, say("tried.time"), say("tried.passes"), say("tried.memory"))
    drawn = [(t.method, t.seconds, say.seconds(t.seconds)) for t in facts.tried]
    label = say("tried.label", bars="; ".join(f"{name}, {text}" for name, _, text in drawn))
    return Section(
        "tried", say("tried.title_cost"), [say("tried.text")],
        [(say("tried.caption"), plots.bars(drawn, label))] if len(drawn) > 1 else [],
        [Table(say("tried.table"), head, rows)],
    )  # fmt: skip


def _result(result: str, say: Language) -> str:
    return say.either(f"result.{result}", result)


def files(facts: Facts, say: Language) -> Section:
    """Sizes of the files, and how fast the measured one ran."""
    metrics, found = facts.predicate.metrics, facts.predicate.metrics.evaluation
    before = facts.report.sizes.get("original", {}) if facts.report else {}
    rows = [
        (name, say.size(int(before[name])) if name in before else NOTHING, say.size(n))
        for name, n in metrics.bytes.items()
    ]
    images = sum(share.n for share in (found.fa, found.ra, found.ta, found.va) if share is not None)
    speed = say(
        "files.text", n=say.count(images), time=say.seconds(found.seconds),
        rate=say.count(images / max(found.seconds, 1e-9)),
    )  # fmt: skip
    head = (say("files.file"), say("files.original"), say("files.release"))
    return Section("files", say("files.title"), [speed], tables=[Table(say("files.table"), head, rows)])


def artefacts(facts: Facts, say: Language) -> Section:
    """What else was made of the data, and what has become of it."""
    lines, later = facts.predicate.derived_artefacts, facts.now is not None
    tables = [_artefacts(say("artefacts.then"), lines, say, behind=later)]
    if facts.now is not None:
        tables.insert(0, _artefacts(say("artefacts.now"), facts.now, say))
    return Section("artefacts", say("artefacts.title"), [say("artefacts.text")], tables=tables)


def _artefacts(title: str, lines: Iterable[Artefact | Line], say: Language, *, behind: bool = False) -> Table:
    rows = [
        (say.translated(a.kind), say.count(a.count), NOTHING if a.bytes is None else say.size(a.bytes),
         _state(a.state, say))
        for a in lines
    ]  # fmt: skip
    head = (say("artefacts.what"), say("artefacts.count"), say("artefacts.size"), say("artefacts.state"))
    return Table(title, head, rows, behind)


def _state(state: str, say: Language) -> str:
    kept = state.removeprefix("kept: ")
    return say.translated(state) if kept == state else say("artefacts.kept", reason=say.translated(kept))


def recipients(facts: Facts, say: Language) -> Section:
    """Who must be told: this tool sees no copies."""
    lines = facts.predicate.derived_artefacts if facts.now is None else facts.now
    hub = [ON_A_HUB] if any(line.kind == ON_A_HUB for line in lines) else []
    rows = [(say.translated(kind), say(f"recipients.{_DUTY[kind]}")) for kind in (*OUTSIDE, *hub)]
    head = (say("recipients.where"), say("recipients.duty"))
    return Section(
        "recipients", say("recipients.title"), [say("recipients.text")],
        tables=[Table(say("recipients.table"), head, rows)],
    )  # fmt: skip


def dates(facts: Facts, say: Language) -> Section:
    """The clock of the request."""
    request, predicate = facts.predicate.request, facts.predicate
    met = {True: "yes", False: "no", None: "no_deadline"}[request.deadline_met]
    rows = [
        (say("dates.received"), say.day(request.received)), (say("dates.due"), say.day(request.due)),
        (say("dates.verified"), say.day(predicate.completed)),
        (say("dates.issued"), say.day(predicate.issued)),
        (say("dates.met"), say(f"dates.{met}")),
    ]  # fmt: skip
    head = (say("dates.what"), say("dates.when"))
    return Section("dates", say("dates.title"), tables=[Table(say("dates.table"), head, rows)])


def digests(facts: Facts, say: Language) -> Section:
    """What pins all this down, and the command that checks it."""
    predicate, statement = facts.predicate, facts.statement
    rows = [
        (say("digests.receipt"), facts.receipt), *((name, sha) for name, sha in statement.files.items()),
        (say("digests.before"), predicate.checkpoints.before or NOTHING),
        (say("digests.after"), predicate.checkpoints.after or NOTHING),
        (say("digests.recipe"), predicate.recipe), (say("digests.split"), predicate.split.digest),
        (say("digests.previous"), predicate.previous or say("digests.none")),
    ]  # fmt: skip
    tool, head = predicate.tool, (say("digests.of"), say("digests.digest"))
    return Section(
        "digests", say("digests.title"),
        [say("digests.text", key=facts.key, name=tool.name, version=tool.version)],
        tables=[Table(say("digests.table"), head, rows)],
        command="sha256sum -c SHA256SUMS && qmu-edge receipt verify receipt.json --key key.pem",
    )  # fmt: skip


def limits(facts: Facts, say: Language) -> Section:
    """What none of this proves, in the words of the receipt."""
    return Section("limits", say("limits.title"), [say.translated(limit) for limit in facts.predicate.limits])
