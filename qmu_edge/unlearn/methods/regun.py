"""ReGUn: distil what the original network predicts for unseen images of the same class into forget images.

Forget images are trained towards the mean prediction of the original network on validation images of their
class, retain images towards their labels. So the network should treat a forget image as it treats images that
it has never seen.

Source: Mirlach, Laguna and Vogt, "Reference-Guided Machine Unlearning", 2026, arXiv:2603.11210.
Differs: after summaries of the paper, hence "ReGUn-style". The paper draws, for each forget batch, held-out
    images with the classes of that batch; here the reference of a class is the mean over all its validation
    images, which such draws have in expectation. Where validation holds no image of a class, it is the mean
    over all. The forget set's weight and the schedule are not known: equal weights, and those of the
    relabelling methods. A class that is forgotten whole has no unseen images and is refused. Scales are
    frozen.
Limit: where most unseen images of a class are recognised, a mean of predictions leaves the class the
    likeliest, so that more forget images stay recognised than unseen ones are.
Shapes: n images, k classes.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.runtime.device import sent
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.method import Method, Momentum, on_both, samples_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of reference-guided unlearning.

    Attributes:
        epochs: Passes over forget and retain set.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step, of both sets.
        forget_weight: Weight of a forget image's divergence; a retain image's cross-entropy has 1.
    """

    epochs: Count = 10
    lr: Positive = 0.02
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    forget_weight: Positive = 1.0


def references(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, "k k"]:
    """Mean prediction on the images of each class, one row each; of a class without images, that on all.

    >>> references(torch.log(torch.tensor([[0.5, 0.5], [0.7, 0.3]])), torch.tensor([1, 1]))
    tensor([[0.6000, 0.4000],
            [0.6000, 0.4000]])
    """
    p = logits.softmax(1)
    of_class = F.one_hot(labels, logits.shape[1]).T.to(p.dtype)
    images = of_class.sum(1, keepdim=True)
    return torch.where(images > 0, of_class @ p / images.clamp_min(1.0), p.mean(0))


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    both, n = data.forget + data.retain, len(data.forget)
    unseen = references(predict(model, data.validation), data.validation.labels.cpu())
    known = torch.eye(model.shape.classes)[data.retain.labels.cpu()]
    target = torch.cat([unseen[data.forget.labels.cpu()], known]).to(both.device)
    weight = torch.ones(len(both), device=both.device)
    weight[:n] = params.forget_weight
    steps = params.epochs * steps_per_epoch(len(both), params.batch)
    descent = Descent(model, Optimization.of(params), steps, data.progress)

    def loss(b: Batch) -> Tensor:
        at = sent(b.positions, both.device)
        return (weight[at] * F.cross_entropy(model(b.images), target[at], reduction="none")).mean()

    data.progress.start("regun", params.epochs * len(both))
    for _ in range(params.epochs):
        model.train()
        descent.epoch(loss, both.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_both,
    summary="the mean prediction for unseen images of its class for each forget image (ReGUn-style)",
    reads=frozenset({"forget", "retain", "validation"}), check=samples_only("regun"),
)  # fmt: skip
