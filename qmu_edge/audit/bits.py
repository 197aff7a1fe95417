"""Other bit widths: does quantizing the released network anew bring back what was forgotten?

Low-bit weights may hide what the latent weights behind them still hold. So the released checkpoint is
quantized to more and to fewer bits, calibrated on retained images, exported, and attacked.

Source: forgetting that quantization undoes: arXiv:2601.15538, arXiv:2605.02196.
Differs: the network's latent weights at 8, 4 and 2 bits, which whoever trains can make; from the file alone
    nobody makes more bits than it has. The score is the scaled confidence, calibrated by references as in
    `lira` where the verdict had any.
"""

from typing import Final

from qmu_edge.audit.attack import Attack, Sizes, Work
from qmu_edge.audit.lira import line_through, standardised
from qmu_edge.audit.rates import GUESSES, QUANTITIES, told
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.verify.residual import Values

WIDTHS: Final = (8, 4, 2)
NAMES: Final = {bits: tuple(f"{name}, {bits} bits" for name in QUANTITIES[:2]) for bits in WIDTHS}


def calibrated(scores: Values, known: Known, unseen_scores: Values, unseen: Known) -> Values:
    """Scores less what references let expect (n,); as they are without references."""
    if known.expected is None or unseen.expected is None:
        return scores
    line = line_through(unseen.expected, unseen_scores)
    return standardised(scores, known, line)


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen, at each width."""
    sets = (subject.forgotten, subject.unseen)
    sizes = subject.effective(subject.forgotten), subject.effective(subject.unseen)
    rows: list[Finding] = []
    for bits in WIDTHS:
        scores = subject.means.requantized(bits, sets)
        forgotten, unseen = (
            calibrated(own, known, scores[1], subject.unseen) for own, known in zip(scores, sets, strict=True)
        )
        found = told(forgotten, unseen, *sizes)
        rows += [
            Finding(quantity=name, file=value, unknowing=Estimate(guess))
            for name, value, guess in zip(NAMES[bits], found[:2], GUESSES[:2], strict=True)
        ]
    return tuple(rows)


def work(sizes: Sizes) -> Work:
    """An export for each width."""
    images = sizes.views * (sizes.forgotten + sizes.unseen)
    return Work(forward=float(len(WIDTHS) * images), exports=len(WIDTHS))


ATTACK: Final = Attack(
    run=run, work=work, quantities=tuple(name for names in NAMES.values() for name in names),
    summary="whether other bit widths bring it back",
)  # fmt: skip
