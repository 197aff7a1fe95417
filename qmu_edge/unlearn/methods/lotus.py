"""LoTUS: distil Gumbel-softmax predictions of the original on the forget set, at an adaptive temperature.

Before each epoch the temperature is set from the gap between the accuracies on forget images and on unseen
ones. The run stops once the network recognises forget images no better than unseen ones.

Source: Spartalis, Semertzidis, Gavves and Daras, "LoTUS: Large-Scale Machine Unlearning with a Taste of
    Uncertainty", CVPR 2025, arXiv:2503.18314.
Differs: accuracies are those of the quantized weights, as exported. Retain images get the class that the
    original finds likeliest, where the released code draws one from its probabilities. There is always one
    epoch: the accuracy on few forget images may be low by chance. A class that is forgotten whole has no
    unseen images to compare with: its temperature stays as it was at first, and the run stops when none of
    its images is recognised. Ten times the learning rate, so that codes change; scales are frozen.
Shapes: n images, k classes.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.device import sent
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.fit import accuracy
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.distillation import subset, teacher
from qmu_edge.unlearn.method import Method, validation_for_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of LoTUS.

    Attributes:
        epochs: Largest number of passes over the forget set and the chosen retain images.
        lr: Learning rate of AdamW.
        weight_decay: On convolution and classifier weights.
        batch: Images per step, of both sets.
        alpha: How fast the temperature grows with the accuracy gap; the paper has 8 for 10 classes, 2 for
            100.
        retain_share: How much of the retain set is used, 0..1, at least one image.
        margin: The run stops once the forget accuracy is this far below that of unseen images.
    """

    epochs: Count = 10
    lr: Positive = 1e-3
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    alpha: Positive = 8.0
    retain_share: Fraction = 0.3
    margin: Fraction = 0.01


def temperature(alpha: float, gap: float) -> float:
    """Temperature of the forget targets: 1 for an accuracy gap of 0, growing exponentially with the gap.

    >>> temperature(8.0, 0.0), round(temperature(8.0, 0.1), 4)
    (1.0, 2.2255)
    """
    return math.exp(alpha * gap)


def gumbel(n: int, k: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
    """Standard Gumbel noise, on the CPU; the argmax of logits plus noise is a sample from their softmax."""
    return -torch.empty(n, k).exponential_(generator=generator).log()


def smoothed(logits: Float[Tensor, "n k"], noise: Float[Tensor, "n k"], t: float) -> Float[Tensor, "n k"]:
    """Gumbel-softmax: probabilities of noisy logits at temperature `t`.

    >>> smoothed(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 0.0]]), 2.0)  # logits 1.5, 0.5
    tensor([[0.7311, 0.2689]])
    """
    return ((logits.float() + noise) / t).softmax(1)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    both = data.forget + subset(data.retain, params.retain_share, generator)
    settings = Optimization.of(params, optimizer="adamw", schedule="constant")
    steps = params.epochs * steps_per_epoch(len(both), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    original = teacher(model)
    # A network that was never trained on a class has accuracy 0 on it.
    unseen = 0.0 if data.classes else accuracy(model, data.validation)
    first = gap = accuracy(model, data.forget) - unseen

    def loss(t: float, b: Batch) -> Tensor:
        noise = gumbel(len(b), model.shape.classes, generator).to(both.device)
        forget = sent(b.positions < len(data.forget), both.device)
        with torch.no_grad():
            logits = original(b.images)
        hard = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        target = torch.where(forget[:, None], smoothed(logits, noise, t), hard)
        return F.cross_entropy(model(b.images), target)

    data.progress.start("lotus", params.epochs * len(both))
    for _ in range(params.epochs):
        t = temperature(params.alpha, first if data.classes else gap)
        model.train()
        descent.epoch(partial(loss, t), both.batches(params.batch, generator, data.augment))
        gap = accuracy(model, data.forget) - unseen
        if gap <= (0.0 if data.classes else -params.margin):
            break
    data.progress.finish(f"accuracy gap {gap:+.3f}")
    return model


def work(params: Params) -> Passes:
    """All epochs, each with a look at the forget set; runs may end before."""
    each = params.epochs * (1.0 + FORWARD_ONLY)
    return Passes(each + FORWARD_ONLY * params.epochs, each * params.retain_share)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="smoothed predictions for the forget set, until it is as unknown as unseen images (LoTUS)",
    reads=frozenset({"forget", "retain", "validation"}), check=validation_for_samples,
)  # fmt: skip
