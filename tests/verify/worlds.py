"""Scores as networks would give them, drawn at random: what is left in them is known."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmu_edge.verify.residual import Compared

NOISE, TRACE, TRACE_SPREAD = 0.8, 1.0, 0.5


class World(NamedTuple):
    """The three sets of a request."""

    forget: Compared
    retain: Compared
    unseen: Compared


def world(
    rng: np.random.Generator, n: int, share: float, *, each: int = 1, alike: float = 0.0, unseen: int = 300
) -> World:
    """An original, a file in which `share` of the trace of n forgotten images is left, and references.

    A score is how easy an image and its class are, a trace where it was trained on, and the network's noise.

    Args:
        rng: Of everything.
        n: Images to be forgotten.
        share: 0 for a network that never saw them, 1 for the original's like.
        each: So many images has every person.
        alike: Correlation of the noise of one person's images.
        unseen: Images that no network was trained on.
    """
    levels = rng.normal(0.0, 0.5, 5)

    def one(size: int, before: float, after: float) -> Compared:
        people, labels = np.arange(size) // each, rng.integers(0, 5, size)
        easy = rng.normal(2.0, 1.0, size) + levels[labels]
        trace = rng.normal(TRACE, TRACE_SPREAD, size)
        scores = [easy + k * trace + _noise(rng, people, alike) for k in (before, after)]
        return Compared(
            labels=labels, classes=5, right=scores[1] > 0, right_before=scores[0] > 0, score=scores[1],
            score_before=scores[0], references=easy + rng.normal(0.0, 0.2, size), people=people,
        )  # fmt: skip

    return World(one(n, 1.0, share), one(400, 1.0, 1.0), one(unseen, 0.0, 0.0))


def of_original(sets: World) -> World:
    """The same, with the original in place of the file."""
    return World(*(replace(s, score=s.score_before) for s in sets))  # type: ignore[arg-type]


def _noise(rng: np.random.Generator, people: NDArray[np.int64], alike: float) -> NDArray[np.float64]:
    shared = rng.normal(size=people.max() + 1)[people]
    own = rng.normal(size=len(people))
    return np.asarray(NOISE * (np.sqrt(alike) * shared + np.sqrt(1 - alike) * own))
