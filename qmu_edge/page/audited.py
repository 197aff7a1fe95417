"""The section about an audit: a table for each attack."""

from qmu_edge.page.facts import Facts
from qmu_edge.page.numbers import NOTHING, count, seconds, short
from qmu_edge.page.section import Row, Section, Table
from qmu_edge.project.audits import AttackResult, Estimate, Finding
from qmu_edge.receipt.personal_data import impersonal

_TEXT = (
    "Attacks by somebody who knows which pictures were forgotten and tries to tell them from pictures that "
    "were never seen. They were made after the receipt, no limit is held against them, and they decide "
    "nothing. An interval holds the true number in 95 of 100 audits.",
    "What matters is the file beside one that never saw the pictures; where nobody knows what such a file "
    "would show, beside the original.",
)
_HEAD = ("found", "original", "this file", "one that never saw them")


def audited(facts: Facts) -> Section | None:
    """What attacks have found; None where none was made."""
    if not facts.audits:
        return None
    told = [one for one in facts.audits if one.findings]
    silent = [f"{one.attack}: nothing can be said: {one.without}." for one in facts.audits if one.without]
    sizes = [
        f"{one.attack}: {count(one.forgotten)} forgotten and {count(one.unseen)} never seen pictures (in "
        f"fives), {seconds(one.seconds)}."
        for one in told
    ]
    return Section(
        "audit", "What stronger attacks find", [*_TEXT, *sizes, *silent], tables=[*map(_table, told)]
    )


def _table(result: AttackResult) -> Table:
    parts = impersonal([finding.part for finding in result.findings])
    rows = [_row(finding, part) for finding, part in zip(result.findings, parts, strict=True)]
    return Table(result.attack, _HEAD, rows)


def _row(finding: Finding, part: str) -> Row:
    named = f"{part}: {finding.quantity}" if finding.part else finding.quantity
    return named, *(_told(of) for of in (finding.original, finding.file, finding.unknowing))


def _told(estimate: Estimate | None) -> str:
    """A number with its interval.

    >>> _told(Estimate(0.5, 0.25, 0.75)), _told(Estimate(2.0))
    ('0.5 (0.25 to 0.75)', '2')
    """
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return short(estimate.value)
    return f"{short(estimate.value)} ({short(estimate.low)} to {short(estimate.high)})"
