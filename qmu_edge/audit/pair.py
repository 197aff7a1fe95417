"""The pair: what old and new file give away together, where a device, or its owner, holds both.

Of whatever was forgotten the new file is less sure than the old one; of everything else it is as sure. The
score of an image is by how much its confidence has fallen. Exact retraining gives this away just as well: it
is no fault of a file, but a reason to remove old files from devices.

Source: Fu et al., "Revisiting Privacy Leakage in Machine Unlearning", 2026, arXiv:2605.01129 (TC-UMIA, which
    tells forget, retain and unseen apart by the answers of both models); Chen et al., CCS 2021,
    arXiv:2005.02205.
Differs: theirs trains a classifier on the answers of shadow models before and after unlearning; this is one
    fixed score that needs no training: the fall of the scaled confidence. Two tables, forgotten against
    unseen and forgotten against retained, in place of three classes.
"""

from typing import Final

from qmu_edge.audit.attack import Attack, on_all
from qmu_edge.audit.rates import QUANTITIES, told
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.verify.residual import Values

AGAINST: Final = ("unseen", "retained")
NAMES: Final = {word: tuple(f"{name} against {word}" for name in QUANTITIES) for word in AGAINST}


def fall(before: Values, after: Values) -> Values:
    """By how much the confidence in each image has fallen, in log-odds.

    >>> import numpy as np
    >>> fall(np.array([4.0, 1.0]), np.array([1.0, 1.0])).tolist()
    [3.0, 0.0]
    """
    return before - after


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen, and against the retained."""

    def score(known: Known) -> Values:
        return fall(subject.original.scores(known), subject.file.scores(known))

    def rows(against: Known, word: str) -> tuple[Finding, ...]:
        sizes = subject.effective(subject.forgotten), subject.effective(against)
        both = zip(NAMES[word], told(score(subject.forgotten), score(against), *sizes), strict=True)
        return tuple(Finding(quantity=name, file=value) for name, value in both)

    sets = zip((subject.unseen, subject.retained), AGAINST, strict=True)
    return tuple(row for known, word in sets for row in rows(known, word))


ATTACK: Final = Attack(
    run=run, work=on_all, quantities=(*NAMES["unseen"], *NAMES["retained"]),
    summary="what old and new file give away together",
)  # fmt: skip
