"""BaVarIA: LiRA with a variance for each image that few networks can give.

Five networks say little about how far networks differ on one image. So mean and variance of an image have a
prior that all unseen images give, conjugate to the normal distribution, and the file's confidence is judged
by what follows for one more network: a t distribution.

Source: Braennvall, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA", 2026,
    arXiv:2603.11799, the attack with the t distribution, offline. Predictive distribution: Murphy, "Conjugate
    Bayesian analysis of the Gaussian distribution" (2007), section 5.
Differs: the strength of the prior is ours (`MEAN_WEIGHT`, `VARIANCE_WEIGHT`, as if of so many networks): the
    paper's numbers were not at hand. References are brought to the file's scale as in `lira`. All images are
    known to as many networks, so the number of predictive deviations has the order of the probability.
Shapes: r networks, n images.
"""

from typing import Final

import numpy as np
from jaxtyping import Float

from qmu_edge.audit.attack import Attack, Sizes, Work, on_compared
from qmu_edge.audit.lira import line_through
from qmu_edge.audit.rates import QUANTITIES, judged
from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.verify.residual import Values

MEAN_WEIGHT: Final = 0.5
VARIANCE_WEIGHT: Final = 4.0


def predictive_deviations(
    score: Float[np.ndarray, " n"],
    references: Float[np.ndarray, "r n"],
    *,
    mean: float,
    variance: float,
    mean_weight: float = MEAN_WEIGHT,
    variance_weight: float = VARIANCE_WEIGHT,
) -> Float[np.ndarray, " n"]:
    """How many predictive deviations the file's score lies above what one more such network would answer.

    Args:
        score: Of the file.
        references: Of networks that never saw the image, on the file's scale.
        mean: Of the prior.
        variance: Of the prior: how far networks differ on an image.
        mean_weight: Of the prior's mean, in networks.
        variance_weight: Of the prior's variance, in networks.

    >>> two = np.array([[1.0], [3.0]])  # mean 2, squares around it 2; no prior mean, a variance of 2 from 2
    >>> found = predictive_deviations(
    ...     np.array([5.0]), two, mean=0.0, variance=2.0, mean_weight=0.0, variance_weight=2.0
    ... )
    >>> round(float(found[0]), 4)  # (2 * 2 + 2) / (2 + 2) = 1.5 times 1 + 1/2: 3 / sqrt(2.25)
    2.0
    """
    r, own = len(references), references.mean(axis=0)
    weight, freedom = mean_weight + r, variance_weight + r
    centre = (mean_weight * mean + r * own) / weight
    squares = ((references - own) ** 2).sum(axis=0) + mean_weight * r * (own - mean) ** 2 / weight
    spread = (variance_weight * variance + squares) / freedom * (1 + 1 / weight)
    return np.asarray((score - centre) / np.sqrt(np.maximum(spread, 1e-12)))


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen; trains references that never saw the forgotten, where none are."""
    seen = subject.means.references()

    def score(file: Attacked, known: Known) -> Values:
        line = line_through(seen[subject.unseen].mean(axis=0), file.scores(subject.unseen))
        unseen, own = (line.level + line.slope * seen[of] for of in (subject.unseen, known))
        within = float(unseen.var(axis=0, ddof=1).mean()) + line.deviation**2
        return predictive_deviations(file.scores(known), own, mean=float(unseen.mean()), variance=within)

    return judged(subject, score)


def work(sizes: Sizes) -> Work:
    """References on shards that are all training images together."""
    return Work(forward=on_compared(sizes).forward, references=float(sizes.epochs * sizes.training))


ATTACK: Final = Attack(
    run=run, work=work, quantities=QUANTITIES,
    summary="LiRA with a variance for each image, from references for this request",
)  # fmt: skip
