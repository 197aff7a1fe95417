"""What attacks are given: images of which it is known who has seen them, and two exported files.

An attack reads nothing else. It gets no project, no name and no sample's id, and what it returns are sums.

Shapes: n images of a set, k classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.machine.processors import processors
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.verify.metrics import effective_number
from qmu_edge.verify.mia import mean_score, views
from qmu_edge.verify.onnx.reader import OnnxFile
from qmu_edge.verify.residual import Values
from qmu_edge.verify.session import OrtRunner


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """One set of n images.

    Attributes:
        images: uint8 (n, c, h, w).
        labels: int64 (n,).
        people: Whose each is, as numbers (n,).
        expected: Mean scaled confidence under networks that never saw the image (n,); None without any.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    people: NDArray[np.int64]
    expected: Values | None = None

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def take(self, chosen: NDArray[Any]) -> "Known":
        """The images at these positions (m,), or where a mask (n,) is true."""
        expected = None if self.expected is None else self.expected[chosen]
        return Known(
            images=self.images[chosen], labels=self.labels[chosen], people=self.people[chosen],
            expected=expected,
        )  # fmt: skip


class Attacked:
    """An exported file under onnxruntime; what it answers on a set is computed once."""

    def __init__(self, model: Path | OnnxFile, network: Callable[[], Classifier], *, flip: bool) -> None:
        """Load nothing yet.

        Args:
            model: The file, or what was read of it.
            network: Loads the network that it was exported from, a fresh copy each time.
            flip: Whether a score is the mean over an image and its mirror image.
        """
        self.model, self.network, self._flip = model, network, flip
        self._logits: dict[Known, list[NDArray[np.float32]]] = {}

    @cached_property
    def runner(self) -> OrtRunner:
        """The file, ready to run."""
        return OrtRunner(self.model, threads=processors().threads)

    def logits(self, known: Known) -> NDArray[np.float32]:
        """Of the images as they are, float32 (n, k)."""
        return self._views(known)[0]

    def scores(self, known: Known) -> Values:
        """Mean scaled confidence in the true class over the views of each image, float64 (n,)."""
        return mean_score(self._views(known), known.labels)

    def _views(self, known: Known) -> list[NDArray[np.float32]]:
        if known not in self._logits:
            shown = views(known.images, flip=self._flip)
            self._logits[known] = [self.runner.logits(view) for view in shown]
        return self._logits[known]


class Means(ABC):
    """What an attack that trains or exports may ask for; a project gives it, or a benchmark."""

    @abstractmethod
    def samples(self, known: Known) -> Samples:
        """The images of a set, on the computing device."""

    @abstractmethod
    def references(self) -> Mapping[Known, Values]:
        """Scores of networks that never saw an image, for each set (r, n); NaN where a network saw it."""

    @abstractmethod
    def shadow(self, training: Known, asked: Sequence[Known], number: int) -> list[NDArray[np.float32]]:
        """Logits (n, k) of a fresh network that was trained on some images, for each set that is asked of."""

    @abstractmethod
    def requantized(self, bits: int, asked: Sequence[Known]) -> list[Values]:
        """Scores (n,) of the released network's own weights at so many bits, exported, for each set."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Subject:
    """One request, seen by an attacker who knows the truth.

    Attributes:
        forgotten: Images that the original was trained on, and the file should not know.
        unseen: Images that neither was trained on, of other people where there are enough.
        retained: Images that both were trained on.
        original, file: The file before, and the one that was released.
        intraclass: Correlation of one person's images, see `qmu_edge.verify.residual`.
        means: For attacks that train.
        seed: Of all randomness.
    """

    forgotten: Known
    unseen: Known
    retained: Known
    original: Attacked
    file: Attacked
    intraclass: float
    means: Means
    seed: int = 0

    def effective(self, known: Known) -> float:
        """So many images of as many people would say as much as this set."""
        return effective_number(known.people, self.intraclass)
