"""Fine-tuning: continue training on the retain set only, and rely on catastrophic forgetting of the rest.

Source: Warnecke et al., "Machine Unlearning of Features and Labels", NDSS 2023, arXiv:2108.11577, in
    the form that the SalUn family of papers compares with.
Differs: the learning rate follows a cosine, where theirs is constant over ten epochs; scales are frozen
    unless `scale_lr` is given.
"""

from dataclasses import dataclass
from typing import Final

import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy
from qmu_edge.unlearn.method import Method, Momentum, on_retain


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of fine-tuning.

    Attributes:
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule; the papers search 1e-3..1e-1.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        scale_lr: Learning rate of quantizer scales relative to `lr`; 0 freezes them.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    scale_lr: NotNegative = 0.0


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Train `model` on `data.retain`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params)
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("finetune", params.epochs * len(data.retain))
    for _ in range(params.epochs):
        model.train()
        descent.epoch(cross_entropy(model), data.retain.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_retain,
    summary="keep training on the retain set only",
    reads=frozenset({"retain"}),
)  # fmt: skip
