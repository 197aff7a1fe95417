"""What is said in sentences: what was asked and done, what is left, and what that does not prove."""

from typing import Any, Final

from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import between, day, of, percent
from qmu_edge.verify.figures import LEAST

LAWS: Final = {"gdpr": "the GDPR", "ccpa": "the CCPA"}
ANSWERS: Final = {
    "forgotten": "Forgotten: even the upper end of the interval is within the share that is allowed.",
    "retrained": "Retrained: the network was trained anew without the pictures; nothing of them can be left.",
    "not_measurable": "Not measurable: already the original could not be told from a network that never saw "
    "the pictures, so nothing can be said about what is left.",
    "still_present": "Still present: more than the allowed share may be left.",
    "over_forgotten": "Over-forgotten: the file does worse on the pictures than one that never saw them.",
    "inconclusive": "Inconclusive: the pictures are too few, or too little was known of them, to tell.",
}  # fmt: skip
RESULTS: Final = {
    "passed": "passed",
    "threshold_missed": "a limit was missed",
    "method_failed": "did not run to its end",
    "export_failed": "could not be exported",
}
CHECKS: Final = {
    "residual": ("What is left of what was known", "0\u00a0%: never saw them"),
    "ta_drop": ("Accuracy lost on test images", "0\u00a0%"),
    "ra_drop": ("Accuracy lost on retained images", "0\u00a0%"),
    "unchanged_codes": ("Integer weights that are the original's", "less than all"),
}
UNPROVEN: Final = (
    "One test measured this, as a mean over the pictures; it is no proof that nothing is left, and it says "
    "nothing of copies of the file before."
)
UNPROVEN_EXACT: Final = (
    "That rests on the honesty of who ran the process, and says nothing of copies of the file before."
)
SMALL: Final = (
    f"Of fewer than {LEAST} forgotten or never seen images nothing is drawn or split up: "
    "it would show what the file makes of single ones."
)
GONE: Final = (
    "What was measured beside the receipt has been purged: what the receipt says stands here, without plots."
)
OLDER: Final = (
    "What was measured beside the receipt is older than this page, and nothing was kept of which plots could "
    "be drawn: what was found stands here without them."
)


def lead(facts: Facts) -> str:
    """One sentence for everybody: what was asked, how many pictures of whom, what was done, what is left."""
    request = facts.predicate.request
    law = f"Under {LAWS[request.regulation]} " if request.regulation in LAWS else ""
    asked = _first_upper(f"{law}{_who(facts)} asked on {day(request.received)} to have {_pictures(facts)}")
    done = (
        "trained again from the start without them"
        if facts.exact
        else "made to forget them and exported again"
    )
    return f"{asked}; the network was {done}; {left(facts)}."


def left(facts: Facts) -> str:
    """What the exported file still knows, as the end of a sentence."""
    verdict = facts.predicate.verdict
    if facts.exact:
        return "so nothing of them can be left in it"
    found = [r for r in verdict.residuals if r.value is not None]
    shares = [f"{percent(r.value, 0)} ({between(r.low, r.high, 0)}){_scope(r)}" for r in found]
    if not shares or verdict.answer == "not_measurable":
        return "how much of them the exported file still knows could not be measured"
    known = "of what the file before knew of them"
    return f"the exported file still knows {' and '.join(shares)} {known}"


def _who(facts: Facts) -> str:
    predicate, figures = facts.predicate, facts.figures
    if predicate.request.form == "opendsr":
        return "one person"
    if figures and figures.people and predicate.batch.requests == 1:
        people = "one person" if figures.people == 1 else f"{figures.people:,} people"
        return f"a request about {people}"
    return "a request"


def _pictures(facts: Facts) -> str:
    counts = facts.predicate.split.counts
    found, others = counts.get("forget", 0), counts.get("also_erased", 0)
    partly = ", which is what is known of it" if facts.predicate.outcome == "partial" else ""
    tested = f" (and {others:,} that it was only tested on)" if others else ""
    return f"{of(found, 'picture')} removed that this image classifier was trained on{tested}{partly}"


def _scope(residual: Any) -> str:
    return " of whole classes" if residual.scope == "classes" else ""


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
