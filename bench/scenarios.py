"""What is asked to be forgotten in the benchmarks: scenarios by name, and their sets of positions.

random-10         10 % of the training images        class-3        a whole class
few-5             five training images               classes-0-1    several
identity-s07      everything of one person           poison-10      10 % under wrong labels
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """Positions of the images of one scenario.

    Attributes:
        labels: Of all images; wrong ones where the scenario poisons them.
        forget, retain, validation, test: Disjoint.
        classes: Labels that are forgotten whole.
    """

    labels: NDArray[np.int64]
    forget: Positions
    retain: Positions
    validation: Positions
    test: Positions
    classes: tuple[int, ...] = ()


def sets_of(name: str, everything: Sets, subjects: NDArray[np.str_], seed: int) -> Sets:
    """The sets of a scenario.

    Args:
        name: See the module.
        everything: All training images as `retain`, nothing to forget.
        subjects: Whose each image is, "" for nobody.
        seed: Of what is drawn at random.

    Raises:
        KeyError: There is no such scenario.
    """
    kind, _, rest = name.partition("-")
    return _KINDS[kind](rest, everything, subjects, np.random.default_rng(seed))


def _without(sets: Sets, forget: Positions) -> Sets:
    return replace(sets, forget=np.sort(forget), retain=np.setdiff1d(sets.retain, forget))


def _random(rest: str, sets: Sets, subjects: NDArray[np.str_], rng: np.random.Generator) -> Sets:
    n = round(float(rest) / 100 * len(sets.retain))
    return _without(sets, rng.permutation(sets.retain)[:n])


def _few(rest: str, sets: Sets, subjects: NDArray[np.str_], rng: np.random.Generator) -> Sets:
    return _without(sets, rng.permutation(sets.retain)[: int(rest)])


def _classes(rest: str, sets: Sets, subjects: NDArray[np.str_], rng: np.random.Generator) -> Sets:
    """The classes leave validation and test as well."""
    classes = tuple(int(c) for c in rest.split("-"))
    left = {
        part: getattr(sets, part)[~np.isin(sets.labels[getattr(sets, part)], classes)]
        for part in ("validation", "test")
    }
    forget = sets.retain[np.isin(sets.labels[sets.retain], classes)]
    return replace(_without(sets, forget), classes=classes, **left)


def _identity(rest: str, sets: Sets, subjects: NDArray[np.str_], rng: np.random.Generator) -> Sets:
    return _without(sets, sets.retain[subjects[sets.retain] == rest])


def _poison(rest: str, sets: Sets, subjects: NDArray[np.str_], rng: np.random.Generator) -> Sets:
    """The original learns wrong labels, and they are what has to be forgotten."""
    found = _random(rest, sets, subjects, rng)
    labels = sets.labels.copy()
    k = int(labels.max()) + 1
    labels[found.forget] = (labels[found.forget] + rng.integers(1, k, len(found.forget))) % k
    return replace(found, labels=labels)


_KINDS: dict[str, Callable[[str, Sets, NDArray[np.str_], np.random.Generator], Sets]] = {
    "random": _random, "few": _few, "class": _classes, "classes": _classes, "identity": _identity,
    "poison": _poison,
}  # fmt: skip
