"""The section about an audit: a table for each attack."""

from qmu_edge.page.facts import Facts
from qmu_edge.page.language import NOTHING, Language
from qmu_edge.page.measured import impersonal
from qmu_edge.page.section import Row, Section, Table
from qmu_edge.project.audits import AttackResult, Estimate, Finding


def audited(facts: Facts, say: Language) -> Section | None:
    """What attacks have found; None where none was made."""
    if not facts.audits:
        return None
    told = [one for one in facts.audits if one.findings]
    silent = [
        say("audit.silent", attack=one.attack, why=say.translated(one.without))
        for one in facts.audits
        if one.without
    ]
    sizes = [
        say(
            "audit.size", attack=one.attack, forgotten=say.count(one.forgotten),
            unseen=say.count(one.unseen), time=say.seconds(one.seconds),
        )
        for one in told
    ]  # fmt: skip
    text = [say("audit.text"), say("audit.beside"), *sizes, *silent]
    return Section("audit", say("audit.title"), text, tables=[_table(one, say) for one in told])


def _table(result: AttackResult, say: Language) -> Table:
    parts = impersonal([finding.part for finding in result.findings], say)
    rows = [_row(finding, part, say) for finding, part in zip(result.findings, parts, strict=True)]
    head = (say("audit.found"), say("audit.original"), say("audit.file"), say("audit.unknowing"))
    return Table(result.attack, head, rows)


def _row(finding: Finding, part: str, say: Language) -> Row:
    quantity = say.translated(finding.quantity)
    named = f"{part}: {quantity}" if finding.part else quantity
    return named, *(_told(of, say) for of in (finding.original, finding.file, finding.unknowing))


def _told(estimate: Estimate | None, say: Language) -> str:
    """A number with its interval.

    >>> from qmu_edge.page.language import language
    >>> _told(Estimate(0.5, 0.25, 0.75), language("de")), _told(Estimate(2.0), language("en"))
    ('0,5 (0,25 bis 0,75)', '2')
    """
    if estimate is None:
        return NOTHING
    value = _number(estimate.value, say)
    if estimate.low is None or estimate.high is None:
        return value
    ends = say("number.between", low=_number(estimate.low, say), high=_number(estimate.high, say))
    return f"{value} ({ends})"


def _number(value: float, say: Language) -> str:
    """A number with three decimals at most."""
    decimals = next(n for n in (0, 1, 2, 3) if n == 3 or round(value, n) == round(value, 3))
    return say.number(value, decimals)
