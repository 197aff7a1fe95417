"""What an unlearning method says about itself, so that everything else can treat all of them alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from qmu_edge.errors import UnlearnError
from qmu_edge.models.calibration import Group
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain

Run = Callable[[Classifier, ForgetRetain, Any, torch.Generator], Classifier]
Check = Callable[[Classifier, ForgetRetain, Any], None]
Images = Literal["forget", "retain", "validation"]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]

# What plain training changes; scales are frozen by default.
TRAINED: Final[frozenset[Group]] = frozenset({"weights", "bias", "bn_affine", "bn_stats", "head"})
BOTH: Final[frozenset[Images]] = frozenset({"forget", "retain"})


def serves_all(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """The check of a method that can serve every request."""


def samples_only(name: str) -> Check:
    """The check of a method that measures what it forgets by unseen images of the same classes."""

    def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
        if data.classes:
            raise UnlearnError(
                f"method {name} compares with unseen images of the same classes, and a class that is "
                "forgotten whole leaves none: choose another --method"
            )
        data.validation.require_some("validation")

    return check


def validation_for_samples(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """The check of a method that measures samples by images never seen; whole classes need none."""
    if not data.classes:
        data.validation.require_some("validation")


def classes_only(name: str) -> Check:
    """The check of a method that forgets whole classes and nothing else."""

    def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
        if not data.classes:
            raise UnlearnError(
                f"method {name} forgets whole classes, this request names samples: choose another --method"
            )

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One unlearning method.

    Attributes:
        run: Takes a calibrated network on the device of the data and returns one that has forgotten
            `data.forget`, in place or new. The generator is on the CPU and draws all that is random.
        params: Frozen dataclass of every number that its result depends on, with defaults; the receipt
            names them.
        category: "exact" when the result never saw the forget set, else "approximate".
        summary: One line for `qmu-edge methods`.
        touches: Parameter groups that it changes under its default parameters, no others.
        reads: Image sets that it opens, no others.
        check: Refuses what the method cannot serve with an `UnlearnError`, before any work.
    """

    run: Run
    params: type[Any]
    summary: str
    category: Literal["exact", "approximate"] = "approximate"
    touches: frozenset[Group] = TRAINED
    reads: frozenset[Images] = BOTH
    check: Check = serves_all
