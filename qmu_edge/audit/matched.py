"""Unseen images of the same classes as the forgotten: what a file that never saw the forgotten would show.

An attack that trains has no value that is right for every file: some images are learned quickly by anybody.
So it is made twice: on forgotten images, and on as many of each class that the file has really never seen.
"""

import numpy as np
from jaxtyping import Integer

from qmu_edge.audit.subject import Known, Subject


def matched(subject: Subject, most: int = 10_000) -> tuple[Known, Known]:
    """Forgotten and unseen images, equally many of each class, drawn at random.

    Args:
        subject: Whose sets.
        most: Images of either at most.
    """
    generator = np.random.default_rng(subject.seed)
    forgotten, unseen = subject.forgotten, subject.unseen
    a, b = pairs(forgotten.labels, unseen.labels, generator)
    return forgotten.take(a[:most]), unseen.take(b[:most])


def pairs(
    a: Integer[np.ndarray, " m"], b: Integer[np.ndarray, " n"], generator: np.random.Generator
) -> tuple[Integer[np.ndarray, " p"], Integer[np.ndarray, " p"]]:
    """Positions in both, in random order, such that labels at the same place are equal; as many as there are.

    >>> found = pairs(np.array([0, 0, 1]), np.array([1, 1, 0]), np.random.default_rng(0))
    >>> [len(side) for side in found]
    [2, 2]
    """
    orders = generator.permutation(len(a)), generator.permutation(len(b))
    sides: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for label in np.intersect1d(a, b):
        own = [order[labels[order] == label] for order, labels in zip(orders, (a, b), strict=True)]
        size = min(map(len, own))
        for side, positions in zip(sides, own, strict=True):
            side.append(positions[:size])
    none = np.zeros(0, np.int64)
    mixed = generator.permutation(sum(map(len, sides[0])))
    first, second = (np.concatenate([none, *side])[mixed] for side in sides)
    return first, second
