"""The papers' shadow attack: a classifier learns from networks of one's own what "was trained on" looks like.

Shadow networks are trained on halves of the retained images. A classifier learns from their answers to tell
the images that each has seen from those that it has not, and is then asked about the file's answers to
forgotten and to unseen images.

Source: Shokri et al., IEEE S&P 2017, arXiv:1610.05820; with the softmax and the label as features, ROC and
    AUC, as in PGU, arXiv:2312.04095.
Differs: PGU trains its shadow networks with and without the forget set itself; no shadow network here sees a
    forgotten image, because what was deleted is never trained on again for a stored result. Few float
    networks (`SHADOWS`) on half of the images; scikit-learn's gradient boosting in place of XGBoost, which
    is no dependency, with its own defaults but for smaller trees.
Shapes: n images, k classes.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Integer
from sklearn.ensemble import HistGradientBoostingClassifier

from qmu_edge.audit.attack import Attack, Sizes, Work, on_compared
from qmu_edge.audit.rates import QUANTITIES, judged
from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.verify.metrics import softmax
from qmu_edge.verify.residual import Values

SHADOWS: Final = 4


def answers(logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"]) -> Float[np.ndarray, "n w"]:
    """Softmax and one-hot label side by side (n, 2 k).

    >>> answers(np.log(np.array([[1.0, 3.0]])), np.array([1])).round(6).tolist()
    [[0.25, 0.75, 0.0, 1.0]]
    """
    return np.concatenate([softmax(logits), np.eye(logits.shape[1])[labels]], axis=1)


def learned(
    features: Float[np.ndarray, "n w"], seen: np.ndarray, seed: int
) -> HistGradientBoostingClassifier:
    """The attack's classifier."""
    trees = HistGradientBoostingClassifier(
        max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=10.0, max_iter=100, random_state=seed
    )
    return trees.fit(features, seen)


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen; the shadow networks are trained first."""
    generator, retained = np.random.default_rng(subject.seed), subject.retained
    features, seen = [], []
    for number in range(SHADOWS):
        order = generator.permutation(len(retained))
        inside, outside = (retained.take(np.sort(half)) for half in np.array_split(order, 2))
        logits = subject.means.shadow(inside, (inside, outside), number)
        features += [answers(of, known.labels) for of, known in zip(logits, (inside, outside), strict=True)]
        seen += [np.ones(len(inside), np.bool_), np.zeros(len(outside), np.bool_)]
    attack = learned(np.concatenate(features), np.concatenate(seen), subject.seed)

    def score(file: Attacked, known: Known) -> Values:
        found = attack.predict_proba(answers(file.logits(known), known.labels))[:, 1]
        return np.asarray(found, dtype=np.float64)

    return judged(subject, score)


def work(sizes: Sizes) -> Work:
    """Float networks, each on half of the retained images."""
    trained = SHADOWS * 0.5 * sizes.epochs * sizes.retained
    return Work(forward=on_compared(sizes).forward, references=trained)


ATTACK: Final = Attack(
    run=run, work=work, quantities=QUANTITIES,
    summary="a classifier taught by shadow networks",
)  # fmt: skip
