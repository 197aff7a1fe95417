"""What is said in sentences: what was asked and done, and what is left."""

from typing import Any, Final

from qmu_edge.page.facts import Facts
from qmu_edge.page.language import Language
from qmu_edge.receipt.share import tellable

LAWS: Final = frozenset({"gdpr", "ccpa"})


def lead(facts: Facts, say: Language) -> str:
    """One sentence for everybody: what was asked, how many pictures of whom, what was done, what is left."""
    request = facts.predicate.request
    law = say(f"lead.{request.regulation}") if request.regulation in LAWS else ""
    text = say(
        "lead.whole", law=law, who=_who(facts, say), day=say.day(request.received), **_pictures(facts, say),
        done=say("lead.retrained" if facts.exact else "lead.unlearned"), left=left(facts, say),
    )  # fmt: skip
    return text[:1].upper() + text[1:]


def left(facts: Facts, say: Language) -> str:
    """What the exported file still knows, as the end of a sentence."""
    verdict = facts.predicate.verdict
    if facts.exact:
        return say("lead.nothing_left")
    known = (r for r in verdict.residuals if tellable(r.value, r.low, r.high) is not None)
    shares = [_share(residual, say) for residual in known]
    if not shares or verdict.answer == "not_measurable":
        return say("lead.not_measured")
    return say("lead.left", shares=say("lead.and").join(shares))


def _share(residual: Any, say: Language) -> str:
    share = say.share(residual.value, residual.low, residual.high, 0)
    return say("lead.share_classes", share=share) if residual.scope == "classes" else share


def _who(facts: Facts, say: Language) -> str:
    predicate, figures = facts.predicate, facts.figures
    if predicate.request.form == "opendsr":
        return say("lead.person")
    if figures and figures.people and predicate.batch.requests == 1:
        return say.of("lead.people", figures.people)
    return say("lead.request")


def _pictures(facts: Facts, say: Language) -> dict[str, str]:
    counts = facts.predicate.split.counts
    found, others = counts.get("forget", 0), counts.get("also_erased", 0)
    return {
        "pictures": say.of("lead.pictures", found),
        "tested": say.of("lead.tested", others) if others else "",
        "partly": say("lead.partly") if facts.predicate.outcome == "partial" else "",
    }
