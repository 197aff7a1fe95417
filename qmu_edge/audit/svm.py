"""The papers' membership inference attack: a support vector machine on the true-class confidence.

`mia_efficacy` (MIA in the tables) is the share of forget samples that the attack classifies as non-members.
Its target is neither 0 nor 1 but the value of a model retrained without the data: the original's is low (its
members are recognised), that of an over-unlearned model is high. With one feature the attack is a test with
one or two thresholds for the whole population; it serves for comparison with published tables.

Source: the evaluation of SalUn, Fan et al., ICLR 2024, arXiv:2310.12508, as used by Q-MUL.
Differs: members and non-members are equally many and drawn at random, not the first in order (which
    is biased for data sorted by class); repeated over draws; softmax in float64; a fraction, not
    percent.
Shapes: n samples, k classes; logits float (n, k), labels integers (n,).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from sklearn.svm import SVC

from qmu_edge.errors import ConfigError
from qmu_edge.machine.processors import processors
from qmu_edge.verify.metrics import confidence


@dataclass(frozen=True, slots=True)
class Efficacy:
    """Share of forget samples classified as non-members, over `draws` attacks on 2 x `size` samples.

    Attributes:
        mean: Mean over the draws, a fraction.
        std: Standard deviation over the draws (population); 0 for one draw.
        draws: Number of attacks that were trained.
        size: Members, and as many non-members, that each attack was trained on.
    """

    mean: float
    std: float
    draws: int
    size: int


def nonmember_share(
    members: Float[np.ndarray, " m"],
    nonmembers: Float[np.ndarray, " m"],
    targets: Float[np.ndarray, " t"],
) -> float:
    """Train the attack on confidences and return the share of targets it classifies as non-members.

    >>> nonmember_share(np.array([0.9, 1.0]), np.array([0.1, 0.2]), np.array([0.0, 0.15, 0.95]))
    0.6666666666666666
    """
    features = np.concatenate((members, nonmembers))[:, None]
    is_member = np.repeat([1, 0], [members.size, nonmembers.size])
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(features, is_member)
    return float((attack.predict(targets[:, None]) == 0).mean())


def mia_efficacy(
    retain_logits: Float[np.ndarray, "r k"],
    retain_labels: Integer[np.ndarray, " r"],
    test_logits: Float[np.ndarray, "t k"],
    test_labels: Integer[np.ndarray, " t"],
    forget_logits: Float[np.ndarray, "f k"],
    forget_labels: Integer[np.ndarray, " f"],
    *,
    draws: int = 5,
    size: int = 2000,
    seed: int = 0,
) -> Efficacy:
    """Run the attack on the logits of an exported file.

    Args:
        retain_logits: Logits of samples trained on.
        retain_labels: Their classes.
        test_logits: Logits of samples never trained on.
        test_labels: Their classes.
        forget_logits: Logits of the forget set.
        forget_labels: Their classes.
        draws: Number of attacks to train, at least 1.
        size: Members, and as many non-members, for each attack; at most the size of the smaller set is used.
        seed: Seed of the draws.

    Returns:
        Mean and standard deviation over the draws.

    Raises:
        ConfigError: A set is empty, labels do not match the logits, or `draws` or `size` is below 1.
    """
    if draws < 1 or size < 1:
        raise ConfigError(f"mia_efficacy: {draws} draws of {size} samples; allowed at least 1 of 1")
    retain = confidence(retain_logits, retain_labels)
    test = confidence(test_logits, test_labels)
    forget = confidence(forget_logits, forget_labels)
    size = min(size, retain.size, test.size)
    generator = np.random.default_rng(seed)
    drawn = [
        (generator.choice(retain, size, replace=False), generator.choice(test, size, replace=False))
        for _ in range(draws)
    ]
    with ThreadPoolExecutor(processors().threads) as pool:  # training an attack holds no lock of Python's
        shares = list(pool.map(lambda sides: nonmember_share(sides[0], sides[1], forget), drawn))
    return Efficacy(float(np.mean(shares)), float(np.std(shares)), draws, size)
