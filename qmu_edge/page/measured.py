"""The sections about what was measured: words, plots, and a table behind each plot."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qmu_edge.page import plots
from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import NOTHING, Real, between, count, of, percent, signed
from qmu_edge.page.section import Row, Section, Table
from qmu_edge.page.words import ANSWERS, CHECKS, GONE, OLDER, SMALL
from qmu_edge.receipt.personal_data import find
from qmu_edge.receipt.statement import EvaluationResult
from qmu_edge.receipt.version1 import Check
from qmu_edge.verify.figures import RATES, Figures, Spread
from qmu_edge.verify.metrics import binomial_interval
from qmu_edge.verify.verdict import UNCHANGED

_TOLD_RATES: Final = range(0, len(RATES), 5)  # the table says some, from 0.1 %
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_ROWS: Final = 60  # of bars in a plot; the table has all


def left(facts: Facts) -> Section:
    """What is left, in a picture of the interval."""
    predicate, found = facts.predicate, facts.predicate.verdict.residuals
    text = [ANSWERS[predicate.verdict.answer]] if predicate.verdict.answer else []
    if facts.figures is None:
        text.append(OLDER if facts.report else GONE)
    if facts.exact and found:
        text.append("What the test finds all the same is for information.")
    most = predicate.thresholds.get("max_residual")
    allowed = float(most) if isinstance(most, Real) else 0.0
    drawn = [
        (_told(r), plots.interval(r.value, r.low, r.high, allowed, f"Interval on a line: {_told(r)}"))
        for r in found
    ]
    rows = [
        (r.scope, percent(r.value), between(r.low, r.high), percent(allowed), count(r.n),
         f"{r.effective:.1f}", count(r.references), "yes" if r.detected else "no", percent(r.power, 0))
        for r in found
    ]  # fmt: skip
    head = ("of", "left", "interval", "allowed", "images", "as good as", "references", "original told",
            "would be seen")  # fmt: skip
    return Section(
        "left", "What is left", text, drawn, [Table("What is left", head, rows, True)] if rows else []
    )


def checks(facts: Facts) -> Section:
    """Everything that was held against a limit, and the gates of the export."""
    predicate = facts.predicate
    rows = [_check(result) for result in predicate.verdict.results]
    gates = [
        (name, percent(_number(found, "agreement"), 2), count(_number(found, "n")))
        for name, found in predicate.metrics.parity.items()
        if isinstance(found, dict)
    ]
    head = ("check", "value", "interval", "limit", "right would be", "result")
    tables = [Table("Held against a limit", head, rows)]
    if gates:
        tables.append(Table("Same answer as the network", ("format", "same answer", "inputs"), gates))
    text = ["An interval has 5\u00a0% beyond either end. Accuracy is refused only where the loss is "
            "significantly above its limit; what is left, where the upper end is."]  # fmt: skip
    return Section("checks", "Every check", text, tables=tables)


def confidence(facts: Facts) -> Section | None:
    """How sure original and file are of forgotten and of unseen images."""
    if (figures := facts.figures) is None:
        return None
    title = "How sure the file is"
    if figures.original is None or figures.file is None:
        return Section("confidence", title, [SMALL])
    text = [
        "A network is surer of pictures that it was trained on. Where both shapes lie on each other, the "
        "forgotten pictures look like pictures that it has never seen. Counts are rounded to fives."
    ]
    both = (("The original", figures.original), ("This file", figures.file))
    drawn = [(name, plots.spread(figures.edges, of.forgotten, of.unseen, _shape(name, figures, of)))
             for name, of in both]  # fmt: skip
    tables = [Table(name, ("log-odds", "forgotten", "never seen"), _bars(figures, of), True)
              for name, of in both]  # fmt: skip
    return Section("confidence", title, text, drawn, tables)


def attack(facts: Facts) -> Section | None:
    """Which share of the forgotten an attack finds, for each share of false alarms."""
    figures = facts.figures
    if facts.report is None or figures is None or figures.original is None or figures.file is None:
        return None
    areas = [_area(part.evaluation) for part in (facts.report.original, facts.report.unlearned)]
    both = (figures.original, figures.file)
    rows = [
        (percent(RATES[at]), *(_found(of.found[at], figures.forgotten) for of in both)) for at in _TOLD_RATES
    ]
    label = (
        f"Curves over false alarms from 0.1 % to 100 %: at 1 % the original gives away {rows[2][1]}, "
        f"this file {rows[2][2]}; the area is {areas[0]} for the original and {areas[1]} for this file."
    )
    text = [
        "An attacker guesses who was in the training data by how sure the file is. What matters is the left "
        "end, where the guesses are rarely wrong: there the curve of a file that has forgotten lies on the "
        "dotted one.",
        f"Area under the curve (0.5 is guessing): original {areas[0]}, this file {areas[1]}. "
        f"{count(figures.forgotten)} forgotten against {count(figures.unseen)} never seen images: a share of "
        f"false alarms below {percent(1 / figures.unseen)} means none at all.",
    ]
    head = ("false alarms", "found in the original", "found in this file")
    caption = "Forgotten images that the attack finds"
    return Section(
        "attack", "What an attacker would find", text,
        [(caption, plots.curves(figures.original.found, figures.file.found, label))],
        [Table(caption, head, rows, True)],
    )  # fmt: skip


def accuracy(facts: Facts) -> Section:
    """Accuracy on the sets, before and after, and by class."""
    after = facts.predicate.metrics.evaluation
    before = facts.report.original.evaluation if facts.report else None
    rows = [
        (name, _share(getattr(before, key, None)), _share(getattr(after, key)))
        for key, name in (("fa", "forgotten"), ("ra", "retained"), ("ta", "test"), ("va", "validation"))
        if getattr(after, key) is not None
    ]
    rows.append(("area of the attack", _area(before), _area(after)))
    tables = [Table("Accuracy with its 95\u00a0% interval", ("images", "original", "this file"), rows)]
    figures = facts.figures
    if figures is None or figures.few or not figures.classes:
        return Section("accuracy", "Is it as good as before?", tables=tables)
    drawn = [(f"class {c.label}", c.before, c.after) for c in figures.classes]
    worst = min(figures.classes, key=lambda c: c.after - c.before)
    label = (
        f"Accuracy on the test images of {len(drawn)} classes before and after; most is lost by class "
        f"{worst.label}: {percent(worst.before)} before, {percent(worst.after)} after."
    )
    by_class = [
        (f"class {c.label}", percent(c.before), percent(c.after), count(c.images), count(c.forgotten))
        for c in figures.classes
    ]
    head = ("class", "original", "this file", "test images", "forgotten images")
    more = (
        f" {figures.other_classes:,} that changed less, or have fewer than 10 test images, are left out."
        if figures.other_classes
        else ""
    )
    caption = "Test images that are recognised, by class"
    return Section(
        "accuracy", "Is it as good as before?",
        [f"Classes go by the number of the file's output, counts are rounded to fives.{more}"],
        [(caption, plots.changes(drawn, label))], [*tables, Table(caption, head, by_class, True)],
    )  # fmt: skip


def codes(facts: Facts) -> Section | None:
    """How many integer weights have changed, layer by layer."""
    if facts.report is None or facts.report.codes is None:
        return None
    found = facts.report.codes
    layers = [*zip(_impersonal(list(found.layers)), found.layers.values(), strict=True)]
    share = percent(1 - found.unchanged)
    text = [f"{count(found.changed)} of {count(found.weights)} integer weights ({share}) "
            "are others than the original's."]  # fmt: skip
    if not layers:
        return Section("codes", "What changed in the file", text)
    most = max(layers, key=lambda layer: layer[1])
    label = f"Bars of {len(layers)} layers; most changed in {most[0]}, {percent(most[1])} of its weights."
    tail = ".weight" if all(name.endswith(".weight") for name, _ in layers) else ""
    drawn = [(name.removesuffix(tail), share, percent(share)) for name, share in layers[:MOST_ROWS]]
    caption = "Integer weights that changed, by layer"
    return Section(
        "codes", "What changed in the file", text, [(caption, plots.bars(drawn, label))],
        [Table(caption, ("layer", "changed"), [(n, percent(s, 2)) for n, s in layers], True)],
    )  # fmt: skip


def _impersonal(names: Sequence[str]) -> list[str]:
    """Names of layers, which somebody else chose: their numbers where they are not plain words of ASCII."""
    plain = [_WORD.fullmatch(name) and not find(name, forbidden=(), sentences=()) for name in names]
    return [
        name if good else f"layer {at}" for at, (name, good) in enumerate(zip(names, plain, strict=True), 1)
    ]


def _told(residual: Any) -> str:
    what = "whole classes" if residual.scope == "classes" else "pictures"
    return (
        f"Left of {of(residual.n, 'picture') if what == 'pictures' else what}: {percent(residual.value)} "
        f"({between(residual.low, residual.high)})"
    )


def _check(found: EvaluationResult | Check) -> Row:
    title, right = CHECKS.get(found.metric, (found.metric, NOTHING))
    limit = "not all" if found.metric == UNCHANGED else f"at most {percent(found.threshold)}"
    met = "met" if found.passed else "MISSED"
    return title, percent(found.value), between(found.low, found.high), limit, right, met


def _number(found: Mapping[str, object], name: str) -> Real | None:
    value = found.get(name)
    return float(value) if isinstance(value, Real) else None


def _share(share: Any) -> str:
    return (
        NOTHING
        if share is None
        else f"{percent(share.value)} ({between(share.low, share.high)}) of {share.n:,}"
    )


def _area(evaluation: Any) -> str:
    found = getattr(evaluation, "mia_auc", None)
    return NOTHING if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _found(share: Real, n: int) -> str:
    low, high = binomial_interval(round(share * n), n)
    return f"{percent(share)} ({between(low, high)})"


def _shape(name: str, figures: Figures, found: Spread) -> str:
    middles = [_middle(figures.edges, counts) for counts in (found.forgotten, found.unseen)]
    return (
        f"{name}: half of the forgotten images lie above {middles[0]}, half of those never seen above "
        f"{middles[1]}."
    )


def _middle(edges: Sequence[Real], counts: Sequence[int]) -> str:
    """The edge of the bar in which the middle image lies."""
    seen, half = 0, sum(counts) / 2
    for edge, n in zip(edges, counts, strict=False):
        seen += n
        if seen >= half:
            return f"{edge:.1f}"
    return f"{edges[-1]:.1f}"


def _bars(figures: Figures, found: Spread) -> list[Row]:
    ends = zip(figures.edges, figures.edges[1:], found.forgotten, found.unseen, strict=False)
    return [(f"{signed(low, 1)} to {signed(high, 1)}", count(a), count(b)) for low, high, a, b in ends]
