"""A short letter to the person who asked, in words that need no knowledge of the field."""

import textwrap
from typing import Final

from qmu_edge.errors import printable
from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import day, of
from qmu_edge.page.page import environment

_WIDTH: Final = 84
_NUMBER: Final = 16  # letters of the receipt's digest, which tell it from all others of a project


def letter(facts: Facts, reference: str) -> str:
    """The letter as text, with gaps in brackets for what only the sender knows.

    Args:
        facts: Of the request.
        reference: What the person calls the request.
    """
    predicate, request = facts.predicate, facts.predicate.request
    paragraphs = {
        "asked": _asked(facts),
        "done": _done(facts),
        "left": _left(facts),
        "unproven": _unproven(facts),
    }
    return environment().get_template("letter.txt").render(
        issued=day(predicate.issued), received=day(request.received), reference=printable(reference),
        due=day(request.due) if request.due else "not set by law", number=facts.receipt[:_NUMBER],
        **{name: _wrapped(text) for name, text in paragraphs.items()},
    )  # fmt: skip


_MEASURED: Final = (
    "No test can show that nothing at all is left, and ours looks at all of your pictures together."
)
_COPIES: Final = (
    "Older versions of the program may still run on devices until these are updated, and older copies may "
    "lie in backups until these run out. [What is known of devices, backups and others who "
    "received your pictures.]"
)

_KEPT: Final = (
    "They can never be used for teaching it again: we keep a mark for each, which does not show it, so that "
    "it is refused."
)


def _asked(facts: Facts) -> str:
    counts = facts.predicate.split.counts
    learned, tested = counts.get("forget", 0), counts.get("also_erased", 0)
    more = f", and {of(tested, 'picture')} that it was only tested with" if tested else ""
    part = facts.predicate.outcome == "partial"
    only = " We did not find everything that your request names; what we found is deleted." if part else ""
    return (
        f"You asked us to delete your pictures. We found {of(learned, 'picture')} of your request that our "
        f"program had learned to recognise pictures from{more}.{only}"
    )


def _done(facts: Facts) -> str:
    if facts.exact:
        return f"We taught the program again from the beginning, without your pictures. {_KEPT}"
    return f"We changed the program so that it forgets them, and then tested the changed program. {_KEPT}"


def _unproven(facts: Facts) -> str:
    return _COPIES if facts.exact else f"{_MEASURED} {_COPIES}"


def _left(facts: Facts) -> str:
    verdict = facts.predicate.verdict
    if facts.exact:
        return "Nothing: the program that is in use now has never seen your pictures."
    found = next((r for r in verdict.residuals if r.value is not None), None)
    if found is None or verdict.answer != "forgotten" or found.high is None:
        return "How much the program still knows of your pictures could not be measured."
    parts, most = (max(0, round(100 * share)) for share in (found.value or 0.0, found.high))
    about = f"about {parts} in 100 parts are" if parts else "nothing that we could measure is"
    return (
        f"Of what the program had learned from your pictures, {about} left. Such a measurement is not exact: "
        f"it may be up to {most} in 100 parts."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
