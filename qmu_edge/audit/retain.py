"""The retained: does the file give away more about those who stay than the original did?

Unlearning trains on retained images once more, and may leave them better known by heart. The attack is LiRA,
on images that both files were trained on.

Source: Fu et al., "Revisiting Privacy Leakage in Machine Unlearning", 2026, arXiv:2605.01129, for the
    question; `lira` for the attack.
Differs: nothing is trained; a file that never saw them is no aim here, the original is what to compare with.
"""

from dataclasses import replace
from typing import Final

from qmu_edge.audit.attack import Attack, on_all
from qmu_edge.audit.lira import against_unseen
from qmu_edge.audit.rates import QUANTITIES
from qmu_edge.audit.subject import Subject
from qmu_edge.project.audits import Finding


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the retained against the unseen."""
    rows = against_unseen(subject, subject.retained)
    return tuple(replace(row, unknowing=None) for row in rows)


ATTACK: Final = Attack(
    run=run,
    work=on_all,
    quantities=QUANTITIES,
    summary="whether those who stay are better known than before",
    calibrated=True,
)
