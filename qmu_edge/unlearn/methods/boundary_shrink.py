"""Boundary shrink: train forget images towards the class across their nearest decision boundary.

That class is what the original network predicts after one adversarial step (FGSM) away from the true label.
Needs no retain data; designed for whole classes, serves single samples as well.

Source: Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting
    the Decision Boundary", CVPR 2023, arXiv:2303.11570.
Differs: the true class is never the nearest; labels are computed once, for images without augmentation; the
    step is taken on pixels 0..1, the input of these networks. Batch-norm statistics and scales are frozen; no
    weight decay.
Shapes: n forget images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import TRAINED, Method, Momentum
from qmu_edge.unlearn.relabelling import possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of boundary shrink.

    Attributes:
        epochs: Passes over the forget set.
        lr: Learning rate, constant; the papers search 1e-6..1e-4 in float networks, which changes few
            integer codes at low bit widths.
        momentum: Of SGD.
        batch: Images per step.
        radius: Change of each pixel by the adversarial step, for pixels 0..1.
    """

    epochs: Count = 10
    lr: Positive = 5e-3
    momentum: Momentum = 0.9
    batch: Count = 128
    radius: Positive = 0.1


def adversarial(
    images: Float[Tensor, "n c h w"], gradient: Float[Tensor, "n c h w"], radius: float
) -> Float[Tensor, "n c h w"]:
    """Images 0..1 plus `radius` times the sign of the gradient (FGSM), clipped to 0..1.

    >>> pixels, gradient = torch.tensor([0.5, 0.5, 0.95]), torch.tensor([-3.0, 0.0, 0.2])
    >>> adversarial(pixels.view(1, 1, 1, 3), gradient.view(1, 1, 1, 3), 0.1).flatten()
    tensor([0.4000, 0.5000, 1.0000])
    """
    return (images + radius * gradient.sign()).clamp(0.0, 1.0)


def nearest_labels(
    model: Classifier, batch: Batch, radius: float, unretained: Sequence[int] = ()
) -> Int64[Tensor, " n"]:
    """The most probable class, neither the label nor `unretained`, after an adversarial step of `radius`.

    Batch-norm statistics of `model` have to be frozen, so that the other images of a batch have no influence.
    """
    images = batch.images.requires_grad_()
    loss = F.cross_entropy(model(images), batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, [images])
    with torch.no_grad():
        logits: Tensor = model(adversarial(images, gradient, radius))
    return possible(logits, batch.labels, unretained).scatter(1, batch.labels[:, None], -torch.inf).argmax(1)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: The forget set is empty, or the loss is not finite.
    """
    settings = Optimization.of(params, schedule="constant")
    steps = params.epochs * steps_per_epoch(len(data.forget), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("boundary_shrink", params.epochs * len(data.forget))
    train_mode(model, statistics=False)
    labels = [
        nearest_labels(model, b, params.radius, data.unretained) for b in data.forget.batches(params.batch)
    ]
    forget = data.forget.relabelled(torch.cat(labels))
    for _ in range(params.epochs):
        descent.epoch(cross_entropy(model), forget.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(1.0 + FORWARD_ONLY + params.epochs, 0.0)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="forget images to the class across their nearest decision boundary; needs no retain data",
    touches=TRAINED - {"bn_stats"}, reads=frozenset({"forget"}),
)  # fmt: skip
