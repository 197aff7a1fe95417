"""A short letter to the person who asked, in words that need no knowledge of the field."""

import textwrap
from typing import Final

from qmu_edge.errors import printable
from qmu_edge.page.facts import Facts
from qmu_edge.page.language import Language
from qmu_edge.project.inventory import ON_A_HUB

_WIDTH: Final = 84
_NUMBER: Final = 16  # letters of the receipt's digest, which tell it from all others of a project


def letter(facts: Facts, reference: str, say: Language) -> str:
    """The letter as text, with gaps in brackets for what only the sender knows.

    Args:
        facts: Of the request.
        reference: What the person calls the request.
        say: The language that it is written in.
    """
    predicate, request = facts.predicate, facts.predicate.request
    paragraphs = {
        "asked": _asked(facts, say),
        "done": f"{say('letter.retrained' if facts.exact else 'letter.done')} {say('letter.kept')}",
        "left": _left(facts, say),
        "unproven": _unproven(facts, say),
    }
    return say(
        "letter.body", issued=say.day(predicate.issued), received=say.day(request.received),
        reference=printable(reference), number=facts.receipt[:_NUMBER],
        due=say.day(request.due) if request.due else say("letter.no_date"),
        **{name: textwrap.fill(text, _WIDTH) for name, text in paragraphs.items()},
    )  # fmt: skip


def _unproven(facts: Facts, say: Language) -> str:
    sent = any(line.kind == ON_A_HUB for line in facts.predicate.derived_artefacts)
    texts = [*([] if facts.exact else ["measured"]), *(["hub"] if sent else []), "copies"]
    return " ".join(say(f"letter.{text}") for text in texts)


def _asked(facts: Facts, say: Language) -> str:
    counts = facts.predicate.split.counts
    learned, tested = counts.get("forget", 0), counts.get("also_erased", 0)
    part = facts.predicate.outcome == "partial"
    return say(
        "letter.asked", found=say.of("letter.found", learned), partly=say("letter.partly") if part else "",
        tested=say.of("letter.tested", tested) if tested else "",
    )  # fmt: skip


def _left(facts: Facts, say: Language) -> str:
    verdict = facts.predicate.verdict
    if facts.exact:
        return say("letter.nothing_left")
    found = next((r for r in verdict.residuals if r.value is not None), None)
    if found is None or verdict.answer != "forgotten" or found.high is None:
        return say("letter.not_measured")
    parts, most = (max(0, round(100 * share)) for share in (found.value or 0.0, found.high))
    about = say.of("letter.parts", parts) if parts else say("letter.no_parts")
    return say("letter.left", about=about, most=most)
