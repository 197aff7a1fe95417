"""The page about a release: one HTML file that needs nothing else, and the same bytes for the same facts.

Contract. No script, no network, no font or picture from elsewhere; a browser is told to allow none
(Content-Security-Policy). Everything stored is taken for hostile: the template escapes whatever is not markup
of `qmu_edge.page.plots`. The page names no person, no sample and no class: it is made of a receipt, which a
linter has looked through, and of sums.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import DictLoader, Environment, StrictUndefined

from qmu_edge.page import measured, process
from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import between, count, day, percent
from qmu_edge.page.section import Section
from qmu_edge.page.words import UNPROVEN, UNPROVEN_EXACT, lead

MAX_BYTES: Final = 1_000_000
TEMPLATES: Final = ("page.html", "page.css", "letter.txt")


def page(facts: Facts) -> bytes:
    """The page as UTF-8."""
    predicate = facts.predicate
    return environment().get_template("page.html").render(
        lead=lead(facts), unproven=UNPROVEN_EXACT if facts.exact else UNPROVEN, outcome=predicate.outcome,
        passed=predicate.verdict.passed, issued=day(predicate.issued), receipt=facts.receipt,
        cards=_cards(facts), sections=sections(facts), tool=predicate.tool,
    ).encode()  # fmt: skip


@cache
def environment() -> Environment:
    """The templates; what they are given is escaped, and what they are not given is an error."""
    texts = {name: (files("qmu_edge.page") / "templates" / name).read_text("utf-8") for name in TEMPLATES}
    return Environment(
        loader=DictLoader(texts), autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def sections(facts: Facts) -> list[Section]:
    """All sections of a page that have something to say, in order."""
    made: Iterable[Callable[[Facts], Section | None]] = (
        measured.left, measured.checks, measured.confidence, measured.attack, measured.accuracy,
        measured.codes, process.tried, process.files, process.artefacts, process.recipients, process.dates,
        process.digests, process.limits,
    )  # fmt: skip
    return [section for of_facts in made if (section := of_facts(facts)) is not None]


def _cards(facts: Facts) -> list[tuple[str, str, str]]:
    """The few numbers that stand first: name, value, and what goes with it."""
    predicate, figures = facts.predicate, facts.figures
    if facts.exact:
        cards = [("still known", "nothing", "it never saw them")]
    else:
        left = predicate.verdict.residuals[:1]
        cards = [("still known", percent(r.value, 0), between(r.low, r.high, 0)) for r in left]
    people = f"of {figures.people:,} people" if figures and figures.people and figures.people > 1 else ""
    if predicate.batch.requests > 1:
        people = f"of {predicate.batch.requests:,} requests together"
    cards.append(("pictures forgotten", count(predicate.batch.forget), people))
    found = predicate.metrics.evaluation.ta
    if found is not None:
        before = facts.report.original.evaluation.ta if facts.report else None
        cards.append(
            ("accuracy on tests", percent(found.value), f"before {percent(before.value)}" if before else "")
        )
    codes = predicate.verdict.codes
    if codes is not None:
        cards.append(
            ("weights changed", percent(codes.changed / codes.weights), f"of {count(codes.weights)}")
        )
    return cards
