"""SFRon: masked gradient ascent on the forget loss, with several descent steps on the retain loss in between.

The retain steps between two forget steps approximate a step that is preconditioned by the retain Hessian:
they undo the damage of each ascent step before it accumulates. The ascent acts on weights that matter to the
forget set at least as much as to the retain set.

Source: Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement",
    NeurIPS 2024, arXiv:2409.19732.
Differs: passes over the retain set in place of a number of steps (5 are the paper's 1500 on CIFAR-10); the
    ascent acts on convolution and classifier weights only, which become integer codes; batch-norm statistics
    are updated on retain images only; gradients are clipped in retain steps too, which seldom reach the
    limit; a loss below 1e-6 counts as 1e-6, or else images of loss 0, which have no gradient, would get all
    the weight.
Limit: the mask compares squared gradients of batches, as theirs does. Those of a forget set smaller than a
    batch are noisier, and overestimate its importance.
Shapes: n forget images, d parameters.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import Batch, ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cosine, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method, Momentum


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of SFRon.

    Attributes:
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule, of both kinds of step.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        every: Retain steps for each forget step.
        ascent: Factor on the forget loss at the start; it falls along a cosine.
        power: Exponent by which images with a large loss are weighted down; 0: all count the same.
        threshold: Smallest ratio of squared gradients, forget to retain, of a weight that the ascent changes.
        smallest_loss: Lower bound of the losses in the weights, or else images of loss 0 would get all the
            weight.
        smoothing: Added to both squared gradients before their ratio is taken.
        clip_norm: Largest norm of a gradient.
    """

    epochs: Count = 5
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    every: Count = 5
    ascent: Positive = 25.0
    power: NotNegative = 0.5
    threshold: NotNegative = 1.0
    smallest_loss: Positive = 1e-6
    smoothing: Positive = 1e-15
    clip_norm: Positive = 7.0


def adaptive_loss(losses: Float[Tensor, " n"], params: Params) -> Float[Tensor, ""]:
    """Mean of `losses` with weights 1 / loss^power, normalised to mean 1 and treated as constants.

    >>> adaptive_loss(torch.tensor([1.0, 4.0]), Params(power=0.5))  # weights 4/3 and 2/3
    tensor(2.)
    """
    weights = losses.detach().clamp_min(params.smallest_loss).pow(-params.power)
    return (weights * losses).sum() / weights.sum()


def squared_gradient(
    descent: Descent, samples: Samples, batch: int, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """Mean over batches of the squared gradient of the cross-entropy; batch-norm statistics are frozen."""
    model = train_mode(descent.model, statistics=False)
    total = torch.zeros((), device=descent.device)
    for b in samples.batches(batch, generator):
        total = total + descent.gradient(cross_entropy(model), b).square()
    return total / steps_per_epoch(len(samples), batch)


def saliency(
    descent: Descent, data: ForgetRetain, params: Params, generator: torch.Generator
) -> Bool[Tensor, " d"]:
    """Mask of the weights that the ascent changes, see `Params.threshold`."""
    forget, retain = (
        squared_gradient(descent, s, params.batch, generator) for s in (data.forget, data.retain)
    )
    mask = (forget + params.smoothing) / (retain + params.smoothing) >= params.threshold
    for span, parameter in zip(descent.spans, descent.parameters, strict=True):
        if parameter.dim() == 1:
            mask[span.indices] = False
    return mask


def climb(descent: Descent, batch: Batch, mask: Bool[Tensor, " d"], factor: float, params: Params) -> None:
    """One ascent step on `factor` times the forget loss, masked; batch-norm statistics are frozen."""
    model = train_mode(descent.model, statistics=False)

    def loss(batch: Batch) -> Tensor:
        losses = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
        return -factor * adaptive_loss(losses, params)

    descent.follow(descent.gradient(loss, batch) * mask, len(batch))
    model.train()


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params)
    down = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    up = -(-down // params.every)
    descent = Descent(model, settings, down + up, data.progress)
    data.progress.start("sfron", params.epochs * len(data.retain) + up * min(params.batch, len(data.forget)))
    mask = saliency(descent, data, params, generator)
    data.progress.note(f"sfron: the ascent moves {float(mask.float().mean()):.1%} of the parameters")
    forget = data.forget.forever(params.batch, generator, data.augment)
    step = 0
    for _ in range(params.epochs):
        model.train()
        for b in data.retain.batches(params.batch, generator, data.augment):
            if step % params.every == 0:
                factor = params.ascent * cosine(step, down, 0)
                climb(descent, next(forget), mask, factor, params)
            descent.step(cross_entropy(model), b)
            step += 1
        descent.require_finite()
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Both sets once for the mask; the forget set as often as its steps take it, at most a batch in each."""
    return Passes(1.0, 1.0 + params.epochs * (1.0 + 1.0 / params.every))


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="masked steps up the forget loss between steps down the retain loss (SFRon)",
)  # fmt: skip
