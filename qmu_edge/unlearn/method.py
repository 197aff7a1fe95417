"""The interface of an unlearning method: its entry point, hyperparameters and properties."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from qmu_edge.errors import UnlearnError
from qmu_edge.models.calibration import Group
from qmu_edge.models.layers import Classifier
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain

Run = Callable[[Classifier, ForgetRetain, Any, torch.Generator], Classifier]
Work = Callable[[Any], Passes]
Check = Callable[[Classifier, ForgetRetain, Any], None]
Images = Literal["forget", "retain", "validation"]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]

# What plain training changes; scales are frozen by default.
TRAINED: Final[frozenset[Group]] = frozenset({"weights", "bias", "bn_affine", "bn_stats", "head"})
BOTH: Final[frozenset[Images]] = frozenset({"forget", "retain"})


def on_forget(params: Any) -> Passes:
    """The work of a method that trains on the forget set alone."""
    return Passes(params.epochs, 0.0)


def on_retain(params: Any) -> Passes:
    """The work of a method that trains on the retain set alone."""
    return Passes(0.0, params.epochs)


def on_both(params: Any) -> Passes:
    """The work of a method that trains on both sets together."""
    return Passes(params.epochs, params.epochs)


def serves_all(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """The check of a method that serves every request."""


def samples_only(name: str) -> Check:
    """The check of a method that compares forget images with unseen images of the same classes."""

    def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
        if data.classes:
            raise UnlearnError(
                f"method {name} compares with unseen images of the same classes, and a class that is "
                "forgotten whole leaves none: choose another --method"
            )
        data.validation.require_some("validation")

    return check


def validation_for_samples(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """The check of a method that needs validation images to forget samples, and none to forget classes."""
    if not data.classes:
        data.validation.require_some("validation")


def classes_only(name: str) -> Check:
    """The check of a method that forgets whole classes only."""

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
            `data.forget`, the same object or a new one. The generator is on the CPU; every random number is
            drawn from it.
        params: Frozen dataclass of every number that its result depends on, with defaults; the receipt
            names them.
        work: How many images `run` takes through the network under given parameters, about; what depends on
            the images themselves counts as its largest, and validation images do not count.
        category: "exact" when the result never saw the forget set, else "approximate".
        summary: One line for `qmu-edge methods`.
        touches: Parameter groups that it may change under its default parameters.
        reads: Image sets that it may read.
        sums: Whether it takes what training minimised for a sum over single images. Where the recipe makes it
            none, it is refused.
        check: Raises `UnlearnError` before any work where the method cannot serve the request.
    """

    run: Run
    params: type[Any]
    work: Work
    summary: str
    category: Literal["exact", "approximate"] = "approximate"
    touches: frozenset[Group] = TRAINED
    reads: frozenset[Images] = BOTH
    sums: bool = False
    check: Check = serves_all
