"""Subjects whose truth is known: files that answer from a table, and networks that do not exist."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.audit.subject import Attacked, Known, Means, Subject
from qmu_edge.project.audits import Finding
from qmu_edge.train.batches import Samples
from qmu_edge.verify.residual import Values

IMAGES = np.zeros((1, 1, 2, 2), np.uint8)


def known(n: int, expected: Values | None = None, *, people: NDArray[np.int64] | None = None) -> Known:
    """So many images of two classes."""
    return Known(
        images=np.repeat(IMAGES, n, 0), labels=np.arange(n) % 2, expected=expected,
        people=np.arange(n) if people is None else people,
    )  # fmt: skip


class Answering(Attacked):
    """A file that gives each image of a set the scaled confidence that a table says."""

    def __init__(self, table: Mapping[Known, Values]) -> None:
        """Answer from this table."""
        super().__init__(Path("no.onnx"), _none, flip=False)
        self.table = table

    def _views(self, known: Known) -> list[NDArray[np.float32]]:
        logits = np.zeros((len(known), 2), np.float32)
        logits[np.arange(len(known)), known.labels] = self.table[known]
        return [logits]


class Nothing(Means):
    """No project: references alone, where they are given."""

    def __init__(self, found: Mapping[Known, Values] | None = None) -> None:
        """`found` is what references say."""
        self.found = found

    def samples(self, known: Known) -> Samples:
        """Not here."""
        raise AssertionError("this attack trains nothing")

    def references(self) -> Mapping[Known, Values]:
        """Those that were given."""
        assert self.found is not None
        return self.found

    def shadow(self, training: Known, asked: Sequence[Known], number: int) -> list[NDArray[np.float32]]:
        """Not here."""
        raise AssertionError("this attack trains nothing")

    def requantized(self, bits: int, asked: Sequence[Known]) -> list[Values]:
        """Not here."""
        raise AssertionError("this attack exports nothing")


def subject(
    *, known_before: float = 3.0, known_after: float = 0.0, n: int = 400, references: int = 5, seed: int = 0
) -> Subject:
    """Images that are easy or hard for every network, and better known by those that were trained on them.

    Args:
        known_before: By how much the original is surer of what it was trained on, in log-odds.
        known_after: Likewise the file, of what it should have forgotten; of the retained it knows as much.
        n: Images of each set.
        references: Networks that never saw an image.
        seed: Of all randomness.
    """
    rng = np.random.default_rng(seed)
    sets: dict[str, Known] = {}
    opinions, before, after = {}, {}, {}
    for name in ("forgotten", "unseen", "retained"):
        easy = rng.normal(0.0, 3.0, n)
        found = 0.8 * easy + rng.normal(0.0, 0.7, (references, n)) - 1.0
        of = sets[name] = known(n, found.mean(axis=0))
        gains = {"forgotten": (known_before, known_after), "unseen": (0.0, 0.0)}
        old, new = gains.get(name, (known_before, known_before))
        opinions[of] = found
        before[of], after[of] = (easy + gain + rng.normal(0.0, 0.7, n) for gain in (old, new))
    return Subject(
        forgotten=sets["forgotten"],
        unseen=sets["unseen"],
        retained=sets["retained"],
        original=Answering(before),
        file=Answering(after),
        intraclass=0.0,
        means=Nothing(opinions),
    )


def require_told_from_forgotten(rows: Sequence[Finding]) -> None:
    """The original of `subject` knows the forgotten, and its file does not, also at few false alarms."""
    area, low, _ = rows
    assert area.original is not None and area.original.low is not None and area.original.low > 0.9
    assert area.file is not None and area.file.low is not None and area.file.high is not None
    assert area.file.low <= 0.5 <= area.file.high
    assert low.original is not None and low.file is not None and low.original.value > 10 * low.file.value


def _none() -> Any:
    raise AssertionError("there is no network")
