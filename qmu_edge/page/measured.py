"""The sections about what was measured: words, plots, and a table behind each plot."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qmu_edge.page import plots
from qmu_edge.page.facts import Facts
from qmu_edge.page.language import NOTHING, Language, Real
from qmu_edge.page.section import Row, Section, Table
from qmu_edge.receipt.personal_data import is_plain_word
from qmu_edge.receipt.share import tellable
from qmu_edge.receipt.statement import EvaluationResult
from qmu_edge.receipt.version1 import Check
from qmu_edge.verify.figures import LEAST, RATES, Figures, Spread
from qmu_edge.verify.metrics import binomial_interval
from qmu_edge.verify.verdict import UNCHANGED

_TOLD_RATES: Final = range(0, len(RATES), 5)  # the table says some, from 0.1 %
MOST_ROWS: Final = 60  # of bars in a plot; the table has all


def left(facts: Facts, say: Language) -> Section:
    """What is left, in a picture of the interval."""
    predicate, found = facts.predicate, facts.predicate.verdict.residuals
    text = [say(f"answer.{predicate.verdict.answer}")] if predicate.verdict.answer else []
    if facts.figures is None:
        text.append(say("left.older" if facts.report else "left.gone"))
    if facts.exact and found:
        text.append(say("left.information"))
    most = predicate.thresholds.get("max_residual")
    allowed = float(most) if isinstance(most, Real) else 0.0
    drawn, rows = [], []
    for r in found:
        told, share = _told(r, say), tellable(r.value, r.low, r.high)
        if share is None:
            text.append(f"{told}.")
        else:
            label = say("left.label", told=told)
            drawn.append((told, plots.interval(share, r.low, r.high, allowed, label, say)))
        rows.append(
            (say.translated(r.scope), say.percent(share), say.between(r.low, r.high),
             say.percent(allowed), say.count(r.n), say.number(r.effective, 1), say.count(r.references),
             say("left.yes" if r.detected else "left.no"), say.percent(r.power, 0))
        )  # fmt: skip
    columns = ("of", "left", "interval", "allowed", "images", "effective", "references", "detected", "power")
    head, title = tuple(say(f"left.{column}") for column in columns), say("left.title")
    return Section("left", title, text, drawn, [Table(title, head, rows, True)] if rows else [])


def checks(facts: Facts, say: Language) -> Section:
    """Everything that was held against a limit, and the gates of the export."""
    predicate = facts.predicate
    rows = [_check(result, say) for result in predicate.verdict.results]
    gates = [
        (name, say.percent(_number(found, "agreement"), 2), say.count(_number(found, "n")))
        for name, found in predicate.metrics.parity.items()
        if isinstance(found, dict)
    ]
    columns = ("check", "value", "interval", "limit", "right", "result")
    tables = [Table(say("checks.limits"), tuple(say(f"checks.{column}") for column in columns), rows)]
    if gates:
        head = (say("checks.format"), say("checks.same"), say("checks.inputs"))
        tables.append(Table(say("checks.gates"), head, gates))
    return Section("checks", say("checks.title"), [say("checks.text")], tables=tables)


def confidence(facts: Facts, say: Language) -> Section | None:
    """How sure original and file are of forgotten and of unseen images."""
    if (figures := facts.figures) is None:
        return None
    title = say("confidence.title")
    if figures.original is None or figures.file is None:
        return Section("confidence", title, [say("confidence.small", least=LEAST)])
    both = ((say("confidence.original"), figures.original), (say("confidence.file"), figures.file))
    drawn = [
        (name, plots.spread(figures.edges, of.forgotten, of.unseen, _shape(name, figures, of, say), say))
        for name, of in both
    ]
    head = (say("confidence.odds"), say("confidence.forgotten"), say("confidence.unseen"))
    tables = [Table(name, head, _bars(figures, of, say), True) for name, of in both]
    return Section("confidence", title, [say("confidence.text")], drawn, tables)


def attack(facts: Facts, say: Language) -> Section | None:
    """Which share of the forgotten an attack finds, for each share of false alarms."""
    figures = facts.figures
    if facts.report is None or figures is None or figures.original is None or figures.file is None:
        return None
    areas = [_area(part.evaluation, say) for part in (facts.report.original, facts.report.unlearned)]
    both = (figures.original, figures.file)
    rows = [
        (say.percent(RATES[at]), *(_found(of.found[at], figures.forgotten, say) for of in both))
        for at in _TOLD_RATES
    ]
    label = say(
        "attack.label", original=rows[2][1], file=rows[2][2], area_original=areas[0], area_file=areas[1]
    )
    area = say(
        "attack.area", original=areas[0], file=areas[1], forgotten=say.count(figures.forgotten),
        unseen=say.count(figures.unseen), least=say.percent(1 / figures.unseen),
    )  # fmt: skip
    head = (say("attack.alarms"), say("attack.in_original"), say("attack.in_file"))
    caption = say("attack.caption")
    return Section(
        "attack", say("attack.title"), [say("attack.text"), area],
        [(caption, plots.curves(figures.original.found, figures.file.found, label, say))],
        [Table(caption, head, rows, True)],
    )  # fmt: skip


def accuracy(facts: Facts, say: Language) -> Section:
    """Accuracy on the sets, before and after, and by class."""
    after = facts.predicate.metrics.evaluation
    before = facts.report.original.evaluation if facts.report else None
    rows = [
        (say(f"accuracy.{key}"), _share(getattr(before, key, None), say), _share(getattr(after, key), say))
        for key in ("fa", "ra", "ta", "va")
        if getattr(after, key) is not None
    ]
    rows.append((say("accuracy.area"), _area(before, say), _area(after, say)))
    columns = (say("accuracy.original"), say("accuracy.file"))
    tables = [Table(say("accuracy.table"), (say("accuracy.images"), *columns), rows)]
    figures, title = facts.figures, say("accuracy.title")
    if figures is None or figures.few or not figures.classes:
        return Section("accuracy", title, tables=tables)
    caption, drawn = say("accuracy.caption"), [(_class(c, say), c.before, c.after) for c in figures.classes]
    by_class = [
        (_class(c, say), say.percent(c.before), say.percent(c.after), say.count(c.images),
         say.count(c.forgotten))
        for c in figures.classes
    ]  # fmt: skip
    more = say("accuracy.others", n=say.count(figures.other_classes)) if figures.other_classes else ""
    head = (
        say("accuracy.head_class"), *columns, say("accuracy.test_images"), say("accuracy.forgotten_images")
    )  # fmt: skip
    return Section(
        "accuracy", title, [say("accuracy.text", more=more)],
        [(caption, plots.changes(drawn, _worst(figures, say), say))],
        [*tables, Table(caption, head, by_class, True)],
    )  # fmt: skip


def _class(of: Any, say: Language) -> str:
    return say("accuracy.class", n=of.label)


def _worst(figures: Figures, say: Language) -> str:
    """What the plot of classes shows."""
    worst = min(figures.classes, key=lambda c: c.after - c.before)
    return say(
        "accuracy.label", n=len(figures.classes), worst=worst.label, before=say.percent(worst.before),
        after=say.percent(worst.after),
    )  # fmt: skip


def others(facts: Facts, say: Language) -> Section | None:
    """What packages of others have measured."""
    found: Mapping[str, Real | None] = getattr(facts.predicate.metrics, "others", {})
    if not found:
        return None
    before = facts.report.original.metrics if facts.report else {}
    rows = [
        (name, _value(before[name], say) if name in before else NOTHING, _value(value, say))
        for name, value in found.items()
    ]
    head = (say("others.metric"), say("accuracy.original"), say("accuracy.file"))
    title = say("others.title")
    return Section("others", title, [say("others.text")], tables=[Table(title, head, rows)])


def _value(of: Real | None, say: Language) -> str:
    return say("others.failed") if of is None else say.number(of, 4)


def codes(facts: Facts, say: Language) -> Section | None:
    """How many integer weights have changed, layer by layer."""
    if facts.report is None or facts.report.codes is None:
        return None
    found, title = facts.report.codes, say("codes.title")
    layers = [*zip(impersonal(list(found.layers), say), found.layers.values(), strict=True)]
    text = say(
        "codes.text", changed=say.count(found.changed), all=say.count(found.weights),
        share=say.percent(1 - found.unchanged),
    )  # fmt: skip
    if not layers:
        return Section("codes", title, [text])
    most = max(layers, key=lambda layer: layer[1])
    label = say("codes.label", n=len(layers), layer=most[0], share=say.percent(most[1]))
    tail = ".weight" if all(name.endswith(".weight") for name, _ in layers) else ""
    drawn = [(name.removesuffix(tail), share, say.percent(share)) for name, share in layers[:MOST_ROWS]]
    caption, rows = say("codes.caption"), [(name, say.percent(share, 2)) for name, share in layers]
    return Section(
        "codes", title, [text], [(caption, plots.bars(drawn, label))],
        [Table(caption, (say("codes.layer"), say("codes.changed")), rows, True)],
    )  # fmt: skip


def impersonal(names: Sequence[str], say: Language) -> list[str]:
    """Names of layers, which somebody else chose: their numbers where they are not plain words of ASCII."""
    return [name if is_plain_word(name) else say("codes.number", n=at) for at, name in enumerate(names, 1)]


def _told(residual: Any, say: Language) -> str:
    what = say("left.classes") if residual.scope == "classes" else say.of("left.pictures", residual.n)
    return say("left.told", what=what, share=say.share(residual.value, residual.low, residual.high))


def _check(found: EvaluationResult | Check, say: Language) -> Row:
    title, right = (
        say.either(f"check.{found.metric}", found.metric),
        say.either(f"right.{found.metric}", NOTHING),
    )
    at_most = say("checks.at_most", share=say.percent(found.threshold))
    limit = say("checks.not_all") if found.metric == UNCHANGED else at_most
    value = tellable(found.value, found.low, found.high, getattr(found, "bound", "value"))
    met = say("checks.met" if found.passed else "checks.unshown" if value is None else "checks.missed")
    return title, say.percent(value), say.between(found.low, found.high), limit, right, met


def _number(found: Mapping[str, object], name: str) -> Real | None:
    value = found.get(name)
    return float(value) if isinstance(value, Real) else None


def _share(share: Any, say: Language) -> str:
    if share is None:
        return NOTHING
    interval = say.between(share.low, share.high)
    return say("accuracy.share", share=say.percent(share.value), interval=interval, n=say.count(share.n))


def _area(evaluation: Any, say: Language) -> str:
    found = getattr(evaluation, "mia_auc", None)
    if found is None:
        return NOTHING
    ends = {name: say.number(getattr(found, name), 2) for name in ("value", "low", "high")}
    return say("accuracy.area_value", **ends)


def _found(share: Real, n: int, say: Language) -> str:
    low, high = binomial_interval(round(share * n), n)
    return f"{say.percent(share)} ({say.between(low, high)})"


def _shape(name: str, figures: Figures, found: Spread, say: Language) -> str:
    forgotten, unseen = (_middle(figures.edges, counts, say) for counts in (found.forgotten, found.unseen))
    return say("confidence.shape", name=name, forgotten=forgotten, unseen=unseen)


def _middle(edges: Sequence[Real], counts: Sequence[int], say: Language) -> str:
    """The edge of the bar in which the middle image lies."""
    seen, half = 0, sum(counts) / 2
    for edge, n in zip(edges, counts, strict=False):
        seen += n
        if seen >= half:
            return say.number(edge, 1)
    return say.number(edges[-1], 1)


def _bars(figures: Figures, found: Spread, say: Language) -> list[Row]:
    ends = zip(figures.edges, figures.edges[1:], found.forgotten, found.unseen, strict=False)
    return [
        (say("confidence.bar", low=say.number(low, 1), high=say.number(high, 1)), say.count(a), say.count(b))
        for low, high, a, b in ends
    ]
