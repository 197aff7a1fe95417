"""Random labels: train the forget set on labels drawn at random, the retain set on its own.

Source: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020,
    arXiv:1911.04933, in the form that the SalUn family of papers compares with.
Differs: labels are drawn anew each epoch in both loops; the learning rate follows a cosine, where theirs is
    constant over ten epochs; scales are frozen unless `scale_lr` is given.
Shapes: n forget images, k classes.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.method import Method, Momentum, on_both
from qmu_edge.unlearn.relabelling import Loop, epoch, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of random labels.

    Attributes:
        epochs: Passes over forget and retain set.
        lr: Highest learning rate of the cosine schedule; the papers search 1e-3..1e-1.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        loop: "mixed" or "sequential", see `relabelling.epoch`.
        scale_lr: Learning rate of quantizer scales relative to `lr`; 0 freezes them.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    loop: Loop = "mixed"
    scale_lr: NotNegative = 0.0


def random_labels(n: int, classes: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Uniform labels over all classes, the true one included, as in the papers.

    >>> random_labels(4, 1, torch.Generator())
    tensor([0, 0, 0, 0])
    """
    return torch.randint(classes, (n,), generator=generator)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    images = len(data.forget) + len(data.retain)
    settings = Optimization.of(params)
    steps = params.epochs * steps_of(params.loop, len(data.forget), len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("random_label", params.epochs * images)
    for _ in range(params.epochs):
        labels = random_labels(len(data.forget), model.shape.classes, generator)
        epoch(
            descent, data, data.forget.relabelled(labels), (1.0, 1.0),
            loop=params.loop, batch=params.batch, generator=generator,
        )  # fmt: skip
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_both,
    summary="random labels for the forget set, true labels for the retain set",
)  # fmt: skip
