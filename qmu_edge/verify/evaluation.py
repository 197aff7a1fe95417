"""What one exported file does on sets of labelled images, measured under onnxruntime.

A forget set of n samples has a binomial error of its own (n = 100 at 90 %: about 6 points either way). So
every accuracy stands with its 95 % interval. All accuracies are fractions.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmu_edge.io.digest import Sha256
from qmu_edge.verify.metrics import (
    accuracy,
    binomial_interval,
    confidence,
    prediction_histogram,
    require_labels,
)
from qmu_edge.verify.mia import Auc, mean_score, mia_auc, views

if TYPE_CHECKING:
    from qmu_edge.verify.session import OrtRunner


class SetName(StrEnum):
    """The sets that a file is measured on: what to forget, what to retain, and two never trained on."""

    FORGET = "forget"
    RETAIN = "retain"
    TEST = "test"
    VALIDATION = "validation"


class Labelled(NamedTuple):
    """Images, uint8 (n, c, h, w), and their labels, integers (n,)."""

    images: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A fraction of n samples with its 95 % Wilson interval."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one file does; a field is None when its set was not given.

    Attributes:
        sha256: Digest of the file that ran.
        bytes: Its size.
        seconds: Wall-clock time of all inference.
        fa: Accuracy on the forget set.
        ra: Accuracy on the retain set.
        ta: Accuracy on the test set.
        va: Accuracy on the validation set.
        mia_auc: Forget samples against test samples, or validation samples where there are no test samples.
        forget_predictions: How often each class is predicted on the forget set.
        mean_confidence: Mean probability of the true class by set.
    """

    sha256: Sha256
    bytes: int
    seconds: float
    fa: Accuracy | None = None
    ra: Accuracy | None = None
    ta: Accuracy | None = None
    va: Accuracy | None = None
    mia_auc: Auc | None = None
    forget_predictions: tuple[int, ...] | None = None
    mean_confidence: Mapping[SetName, float] = field(default_factory=dict)


def measure(logits: NDArray[Any], labels: NDArray[Any]) -> Accuracy:
    """Give the accuracy of logits (n, k) on integer labels (n,), with its interval.

    Raises:
        ConfigError: See `require_labels`.

    >>> measure(np.eye(2), np.array([0, 0])).value
    0.5
    """
    value, n = accuracy(logits, labels), len(labels)
    return Accuracy(value, n, *binomial_interval(round(value * n), n))


def evaluate(
    runner: "OrtRunner", sets: Mapping[SetName, Labelled]
) -> tuple[Evaluation, dict[SetName, NDArray[np.float32]]]:
    """Run a file on the sets that are there.

    Args:
        runner: The file.
        sets: Any of the sets, each with at least one image.

    Returns:
        The evaluation, and the logits float32 (n, k) by set.

    Raises:
        ConfigError: Images and labels do not fit together, or do not fit the file.
        ExportError: See `OrtRunner.logits`.
    """
    start = time.perf_counter()
    logits = {name: runner.logits(images) for name, (images, _) in sets.items()}
    seconds = time.perf_counter() - start
    labels = {name: labelled.labels for name, labelled in sets.items()}
    for name in sets:
        require_labels(logits[name], labels[name])
    share = {name: measure(logits[name], labels[name]) for name in sets}
    forget = logits.get(SetName.FORGET)
    evaluation = Evaluation(
        sha256=runner.sha256,
        bytes=runner.size_bytes,
        seconds=seconds,
        fa=share.get(SetName.FORGET),
        ra=share.get(SetName.RETAIN),
        ta=share.get(SetName.TEST),
        va=share.get(SetName.VALIDATION),
        mia_auc=_membership(logits, labels),
        forget_predictions=None if forget is None else _histogram(forget),
        mean_confidence={n: float(confidence(logits[n], labels[n]).mean()) for n in sets},
    )
    return evaluation, logits


def seen(
    runner: "OrtRunner", images: NDArray[Any], logits: NDArray[Any], labels: NDArray[Any], *, flip: bool
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which images (n,) a file recognises, and its mean score of each (n,), see `qmu_edge.verify.mia`.

    Args:
        runner: The file.
        images: uint8 (n, c, h, w).
        logits: What it makes of them, float (n, k).
        labels: Integers (n,).
        flip: Whether a score is the mean over an image and its mirror image.

    Raises:
        ConfigError: See `require_labels`.
    """
    require_labels(logits, labels)
    mirrored = [runner.logits(view) for view in views(images, flip=flip)[1:]]
    return logits.argmax(axis=1) == labels, mean_score([logits, *mirrored], labels)


def _membership(
    logits: Mapping[SetName, NDArray[np.float32]], labels: Mapping[SetName, NDArray[Any]]
) -> Auc | None:
    """Forget samples against samples never trained on; None where either set is missing."""
    # Not validation images where there are others: methods may have been stopped by them.
    unseen = next((name for name in (SetName.TEST, SetName.VALIDATION) if name in logits), None)
    if unseen is None or SetName.FORGET not in logits or logits[unseen].shape[1] < 2:
        return None
    return mia_auc(logits[SetName.FORGET], labels[SetName.FORGET], logits[unseen], labels[unseen])


def _histogram(logits: NDArray[np.float32]) -> tuple[int, ...]:
    return tuple(prediction_histogram(logits, logits.shape[1]).tolist())
