"""A method: keep training on the retain set, a little."""

from dataclasses import dataclass
from typing import Any

import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy
from qmu_edge.unlearn.method import Method, on_retain


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Every number that the result depends on; receipts name them."""

    epochs: int = 1
    lr: float = 0.001
    batch: int = 64


def run(model: Classifier, data: ForgetRetain, params: Any, generator: torch.Generator) -> Classifier:
    """Return a network that has forgotten `data.forget`."""
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    data.progress.start("small_steps", params.epochs * len(data.retain))
    descent = Descent(model.train(), Optimization.of(params), steps, data.progress)
    for _ in range(params.epochs):
        descent.epoch(cross_entropy(model), data.retain.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD = Method(run=run, params=Params, work=on_retain, summary="a little more training on the retain set")
