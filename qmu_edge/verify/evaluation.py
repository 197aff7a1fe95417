"""What one exported file does, and whether that is good enough.

`evaluate` measures; `judge` compares with a reference. FA must match what a model that never saw
the data would reach: far below the reference is over-unlearning, which shows the request just as
far above shows the data, so both fail. Thresholds are compared with the plain values. A forget set
of n samples has a binomial error of its own (n = 100 at 90 %: about 6 points either way); the
interval stands beside the value and does not widen the threshold.

All accuracies, gaps and drops are fractions.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.verify.metrics import (
    accuracy,
    binomial_interval,
    confidence,
    prediction_histogram,
    require_labels,
)
from qmu_edge.verify.mia import Auc, mia_auc
from qmu_edge.verify.session import OrtRunner

SETS: Final = ("forget", "retain", "test", "validation")


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
        sha256: The file that ran.
        bytes: Its size.
        seconds: Wall-clock of all inference.
        fa: Accuracy on the forget set.
        ra: Accuracy on the retain set.
        ta: Accuracy on the test set.
        va: Accuracy on the validation set.
        mia_auc: Forget against validation samples, or test samples without validation.
        forget_predictions: How often each class is predicted on the forget set.
        mean_confidence: Mean true-class probability by set.
    """

    sha256: str
    bytes: int
    seconds: float
    fa: Accuracy | None = None
    ra: Accuracy | None = None
    ta: Accuracy | None = None
    va: Accuracy | None = None
    mia_auc: Auc | None = None
    forget_predictions: tuple[int, ...] | None = None
    mean_confidence: Mapping[str, float] = dataclasses.field(default_factory=dict)


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
    model: OrtRunner | Path, sets: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[Evaluation, dict[str, NDArray[np.float32]]]:
    """Run a file on the sets that are there.

    Args:
        model: A runner, or a path to make one with one thread.
        sets: "forget", "retain", "test", "validation" -> uint8 images (n, c, h, w), integer
            labels (n,). Any may be absent.

    Returns:
        The evaluation, and the logits float32 (n, k) by set.

    Raises:
        ConfigError: An unknown set, or images and labels that do not fit.
        IntegrityError: See `OrtRunner`.
        ExportError: See `OrtRunner`.
    """
    if unknown := set(sets) - set(SETS):
        raise ConfigError(f"evaluate: sets {sorted(unknown)}; allowed {SETS}")
    runner = model if isinstance(model, OrtRunner) else OrtRunner(model)
    start = time.perf_counter()
    logits = {name: runner.logits(images) for name, (images, _) in sets.items()}
    seconds = time.perf_counter() - start
    labels = {name: pair[1] for name, pair in sets.items()}
    for name in sets:
        require_labels(logits[name], labels[name])
    share = {name: measure(logits[name], labels[name]) for name in sets}
    # Not validation images where there are others: methods may have been stopped by them.
    held_out_set = next((name for name in ("test", "validation") if name in sets), None)
    membership = None
    if held_out_set and "forget" in sets:
        a, b = "forget", held_out_set
        membership = mia_auc(logits[a], labels[a], logits[b], labels[b])
    forget = logits.get("forget")
    evaluation = Evaluation(
        sha256=runner.sha256,
        bytes=runner.size_bytes,
        seconds=seconds,
        fa=share.get("forget"),
        ra=share.get("retain"),
        ta=share.get("test"),
        va=share.get("validation"),
        mia_auc=membership,
        forget_predictions=None if forget is None else _histogram(forget),
        mean_confidence={n: float(confidence(logits[n], labels[n]).mean()) for n in sets},
    )
    return evaluation, logits


def to_json(obj: Any) -> Any:
    """Turn a report into dicts, lists, numbers and strings that `json.dumps` takes.

    >>> to_json(Check("fa_gap", 0.01, 0.05, True))["allowed"]
    0.05
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_json(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_json(value) for value in obj]
    return obj.tolist() if isinstance(obj, (np.ndarray, np.generic)) else obj


def evaluation_from_json(document: Mapping[str, Any]) -> Evaluation:
    """Read back what `to_json` made of an evaluation.

    Raises:
        IntegrityError: A field is missing, unknown or of another kind.
    """
    try:
        fields = dict(document)
        for name in ("fa", "ra", "ta", "va"):
            fields[name] = Accuracy(**fields[name]) if fields[name] else None
        fields["mia_auc"] = Auc(**fields["mia_auc"]) if fields["mia_auc"] else None
        predictions = fields["forget_predictions"]
        fields["forget_predictions"] = None if predictions is None else tuple(predictions)
        return Evaluation(**fields)
    except (TypeError, KeyError, ValueError) as error:
        raise IntegrityError(f"evaluation: not as it was written: {error}") from error


def _histogram(logits: NDArray[np.float32]) -> tuple[int, ...]:
    return tuple(prediction_histogram(logits, logits.shape[1]).tolist())
