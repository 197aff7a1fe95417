"""LiRA: how likely is the file's confidence in an image under networks that never saw it?

The confidence of such networks is taken for normal. The score is how many deviations the file's lies above
their mean.

Source: Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, arXiv:2112.03570;
    offline, with one variance for all images, as they do with few networks.
Differs: references are smaller networks that saw fewer images, so their mean is brought to the file's scale
    by a straight line through the unseen images; the number of deviations, of which their score is the normal
    distribution's share: the same order, without ties near 1.
Shapes: n images.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from qmu_edge.audit.attack import Attack, on_compared
from qmu_edge.audit.rates import QUANTITIES, judged
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.verify.residual import Values


class Line(NamedTuple):
    """What a file answers where references expect something: level + slope * expected, give or take."""

    level: float
    slope: float
    deviation: float


def line_through(expected: Float[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Line:
    """The straight line of least squares through unseen images, and the deviation around it.

    >>> level, slope, around = line_through(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    >>> round(level, 9), round(slope, 9), round(around, 9)
    (1.0, 2.0, 0.0)
    """
    centred = expected - expected.mean()
    slope = float(centred @ (score - score.mean())) / max(float(centred @ centred), 1e-12)
    level = float(score.mean() - slope * expected.mean())
    rest = score - level - slope * expected
    return Line(level, slope, float(np.sqrt((rest**2).sum() / max(1, len(rest) - 2))))


def deviations(
    score: Float[np.ndarray, " n"], mean: Float[np.ndarray, " n"], deviation: float
) -> Float[np.ndarray, " n"]:
    """(score - mean) / deviation.

    >>> deviations(np.array([3.0]), np.array([1.0]), 0.5).tolist()
    [4.0]
    """
    return np.asarray((score - mean) / max(deviation, 1e-12))


def standardised(scores: Values, known: Known, line: Line) -> Values:
    """How many deviations a file's score of each image of a set lies above what is expected (n,)."""
    assert known.expected is not None
    return deviations(scores, line.level + line.slope * known.expected, line.deviation)


def against_unseen(subject: Subject, members: Known) -> tuple[Finding, ...]:
    """Of any set against the unseen images, from which the line of each file comes."""
    unseen = subject.unseen
    assert unseen.expected is not None
    lines = {
        file: line_through(unseen.expected, file.scores(unseen)) for file in (subject.original, subject.file)
    }
    return judged(subject, lambda file, known: standardised(file.scores(known), known, lines[file]), members)


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen."""
    return against_unseen(subject, subject.forgotten)


ATTACK: Final = Attack(
    run=run, work=on_compared, quantities=QUANTITIES,
    summary="unlikely sure under networks that never saw the image",
    calibrated=True,
)  # fmt: skip
