"""Retraining: train from scratch, with the same recipe, without the forget set. Exact unlearning.

An adopted network may name pretrained weights, which are then what it starts from.

It is also the reference for approximate methods.

Differs: from the papers' harness in that the initial weights come from another seed than the original's, so
    that the result shares nothing with the original, not even its initialisation.
"""

from dataclasses import dataclass
from typing import Final

import torch

from qmu_edge.models.build import build
from qmu_edge.models.calibration import GROUPS
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.fit import fit
from qmu_edge.unlearn.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of retraining.

    Attributes:
        train: The training section of the recipe.
    """

    train: TrainRecipe


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """A new network of the architecture of `model`, trained on `data.retain`.

    Raises:
        UnlearnError: The retain set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    fresh = build(model.recipe, model.shape, seed, model.factory, model.start).to(data.retain.device)
    fit(
        fresh, data.retain, replace_seed(params.train, seed), data.augment,
        progress=data.progress, label="retraining", resume=data.state,
    )  # fmt: skip
    return fresh


def replace_seed(train: TrainRecipe, seed: int) -> TrainRecipe:
    """The same recipe with another seed."""
    return train.model_copy(update={"seed": seed})


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(0.0, params.train.epochs * params.train.passes)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="train from scratch without the forget set",
    category="exact", touches=frozenset(GROUPS), reads=frozenset({"retain"}),
)  # fmt: skip
