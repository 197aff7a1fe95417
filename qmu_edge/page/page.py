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
from qmu_edge.page.audited import audited
from qmu_edge.page.facts import Facts
from qmu_edge.page.language import ENGLISH, Language, language
from qmu_edge.page.section import Section
from qmu_edge.page.words import lead
from qmu_edge.receipt.share import tellable

MAX_BYTES: Final = 1_000_000
TEMPLATES: Final = ("page.html", "heat_maps.html", "page.css")


def page(facts: Facts, say: Language | None = None) -> bytes:
    """The page as UTF-8, in English where no language is given."""
    say, predicate = say or language(ENGLISH), facts.predicate
    unproven = say("lead.unproven_exact" if facts.exact else "lead.unproven")
    return environment().get_template("page.html").render(
        say=say, lead=lead(facts, say), unproven=unproven, issued=say.day(predicate.issued),
        receipt=facts.receipt, cards=_cards(facts, say), sections=sections(facts, say), tool=predicate.tool,
    ).encode()  # fmt: skip


@cache
def environment() -> Environment:
    """The templates; what they are given is escaped, and what they are not given is an error."""
    texts = {name: (files("qmu_edge.page") / "templates" / name).read_text("utf-8") for name in TEMPLATES}
    return Environment(
        loader=DictLoader(texts), autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def sections(facts: Facts, say: Language) -> list[Section]:
    """All sections of a page that have something to say, in order."""
    made: Iterable[Callable[[Facts, Language], Section | None]] = (
        measured.left, measured.checks, measured.confidence, measured.attack, measured.accuracy,
        measured.others, measured.codes, audited, process.tried, process.files, process.artefacts,
        process.recipients, process.dates, process.digests, process.limits,
    )  # fmt: skip
    return [section for of_facts in made if (section := of_facts(facts, say)) is not None]


def _cards(facts: Facts, say: Language) -> list[tuple[str, str, str]]:
    """The few numbers that stand first: name, value, and what goes with it."""
    predicate, figures = facts.predicate, facts.figures
    known = say("card.known")
    if facts.exact:
        cards = [(known, say("card.nothing"), say("card.never"))]
    else:
        left = predicate.verdict.residuals[:1]
        cards = [
            (known, say.percent(tellable(r.value, r.low, r.high), 0), say.between(r.low, r.high, 0))
            for r in left
        ]
    people = say("card.people", n=say.count(figures.people)) if figures and (figures.people or 0) > 1 else ""
    if predicate.batch.requests > 1:
        people = say("card.requests", n=say.count(predicate.batch.requests))
    cards.append((say("card.forgotten"), say.count(predicate.batch.forget), people))
    found = predicate.metrics.evaluation.ta
    if found is not None:
        before = facts.report.original.evaluation.ta if facts.report else None
        beside = say("card.before", share=say.percent(before.value)) if before else ""
        cards.append((say("card.accuracy"), say.percent(found.value), beside))
    codes = predicate.verdict.codes
    if codes is not None:
        share = say.percent(codes.changed / codes.weights)
        cards.append((say("card.weights"), share, say("card.of_weights", n=say.count(codes.weights))))
    return cards
