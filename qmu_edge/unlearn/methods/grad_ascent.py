"""Gradient ascent: maximise the loss of the forget set. Needs no retain data.

The loss has no upper bound, so a large learning rate destroys the network; a small one changes hardly any
integer code, so that the exported file forgets nothing. The method serves as a baseline.

Source: Thudi et al., "Unrolling SGD: Understanding Factors Influencing Machine Unlearning", EuroS&P 2022,
    arXiv:2109.13398, in the form that the SalUn family of papers compares with.
Differs: batch-norm statistics are frozen, since forget batches alone would bias them; scales are frozen; no
    weight decay, which would make the network forget everything else.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Positive
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.method import TRAINED, Method, Momentum, on_forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of gradient ascent.

    Attributes:
        epochs: Passes over the forget set.
        lr: Highest learning rate of the cosine schedule; the papers search 1e-5..1e-3.
        momentum: Of SGD.
        batch: Images per step.
    """

    epochs: Count = 5
    lr: Positive = 1e-4
    momentum: Momentum = 0.9
    batch: Count = 128


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: The forget set is empty, or the loss is not finite.
    """
    settings = Optimization.of(params)
    steps = params.epochs * steps_per_epoch(len(data.forget), params.batch)
    descent = Descent(model, settings, steps, data.progress)

    def loss(b: Batch) -> Tensor:
        return -F.cross_entropy(model(b.images), b.labels)

    data.progress.start("grad_ascent", params.epochs * len(data.forget))
    train_mode(model, statistics=False)
    for _ in range(params.epochs):
        descent.epoch(loss, data.forget.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_forget,
    summary="up the loss of the forget set; needs no retain data",
    touches=TRAINED - {"bn_stats"}, reads=frozenset({"forget"}),
)  # fmt: skip
