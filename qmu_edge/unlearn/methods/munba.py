"""MUNBa: combine forget and retain gradient in every step by the Nash bargaining solution.

Every step takes a batch of each set and descends along the bisector of the two gradients: the Nash bargaining
solution of a game of two players, under which each loss falls in proportion to the norm of its gradient. The
forget set has random labels.

Source: Wu and Harandi, "MUNBa: Machine Unlearning via Nash Bargaining", ICCV 2025, arXiv:2411.15537.
Differs: a forget batch in every step, where the released code pairs only the first retain batches of an
    epoch: forget images are seen as often as there are retain images for each. Labels are drawn once an
    epoch; cosine schedule; the gradient of a forget batch is taken with frozen batch-norm statistics. The
    weights are the released code's closed form, simplified; the convex solver that it builds is not called.
    Two gradients that almost cancel get fixed weights, since their sum is mostly rounding error. Every Nash
    solution has norm sqrt(2), so the paper's clipping to 1 always applies: each step has the same length.
Shapes: d parameters.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method, Momentum
from qmu_edge.unlearn.methods.random_label import random_labels
from qmu_edge.unlearn.relabelling import pair_steps, pairs


class Bargain(NamedTuple):
    """Condition for the bargaining solution, and the weights where it does not hold.

    Attributes:
        agreement: Smallest 1 + cosine of the angle between the gradients.
        alone: Weights (forget, retain) below it.
    """

    agreement: float
    alone: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of MUNBa.

    Attributes:
        epochs: Passes over the larger of the two sets.
        lr: Highest learning rate of the cosine schedule, the length of a step before momentum.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images of each set per step.
        clip_norm: Largest norm of a gradient.
        agreement: Smallest 1 + cosine of the angle between the gradients for the bargaining solution.
        forget_alone, retain_alone: Weights of the two gradients below it.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    clip_norm: Positive = 1.0
    agreement: Positive = 1e-3
    forget_alone: NotNegative = 0.1
    retain_alone: NotNegative = 1.0


def nash_weights(
    forget: Float[Tensor, " d"], retain: Float[Tensor, " d"], bargain: Bargain
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weights (forget, retain) of two gradients in the Nash bargaining solution.

    With weights 1 / (norm * sqrt(1 + cosine)) both weighted gradients have the same norm, and the inner
    product of weighted gradient and step is 1 for both. Below `bargain.agreement` they are `bargain.alone`.

    >>> bargain = Bargain(agreement=1e-3, alone=(0.1, 1.0))
    >>> [w.item() for w in nash_weights(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]), bargain)]
    [0.5, 0.25]
    """
    norms = forget.norm(), retain.norm()
    angle = 1.0 + forget.dot(retain) / (norms[0] * norms[1])
    agree = angle > bargain.agreement  # false where a gradient is 0: the angle is NaN
    found = (torch.where(agree, angle.rsqrt() / n, w) for n, w in zip(norms, bargain.alone, strict=True))
    of_forget, of_retain = found
    return of_forget, of_retain


def nash_epoch(
    descent: Descent,
    data: ForgetRetain,
    forget: Samples,
    bargain: Bargain,
    *,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train one epoch with the bargaining solution; batch-norm statistics are updated on retain images only.

    Args:
        descent: The run.
        data: Retain set and augmentation.
        forget: The forget set under its new labels.
        bargain: Condition for the bargaining solution.
        batch: Images of each set per step.
        generator: Draws order and augmentation.

    Raises:
        UnlearnError: A loss is not finite.
    """
    model = descent.model
    loss = cross_entropy(model)
    for pair in pairs(forget, data.retain, (batch, batch), generator, data.augment):
        train_mode(model, statistics=False)
        of_forget = descent.gradient(loss, pair.first)
        train_mode(model, statistics=True)
        of_retain = descent.gradient(loss, pair.second)
        w_forget, w_retain = nash_weights(of_forget, of_retain, bargain)
        descent.follow(w_forget * of_forget + w_retain * of_retain, len(pair))
    descent.require_finite()


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    sizes = len(data.forget), len(data.retain)
    steps = params.epochs * pair_steps(*sizes, (params.batch, params.batch))
    settings = Optimization.of(params)
    descent = Descent(model, settings, steps, data.progress)
    bargain = Bargain(params.agreement, (params.forget_alone, params.retain_alone))
    data.progress.start("munba", params.epochs * 2 * max(sizes))
    for _ in range(params.epochs):
        labels = random_labels(len(data.forget), model.shape.classes, generator)
        forget = data.forget.relabelled(labels)
        nash_epoch(descent, data, forget, bargain, batch=params.batch, generator=generator)
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(0.0, 0.0, params.epochs, params.batch, params.batch)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="random labels; the gradients of both sets bargain over every step (MUNBa)",
)  # fmt: skip
