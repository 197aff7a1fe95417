"""SCRUB with rewind: obey the original on retain images, disobey it on forget images, then step back.

Passes that bring the network near the original on the retain set alternate with passes that drive it away
on the forget set. A forget error that is higher than that of images never seen would give the deletion
away, so the end of that epoch is returned whose forget error is nearest to it.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023, arXiv:2302.09880.
Differs: the retain pass comes first in an epoch. Batch-norm statistics stay in forget passes, so that at
    the start the network is the original to the bit, where their divergence has no slope. Errors are those
    of the rounded weights, as shipped. The learning rate is ten times the released one, which flips hardly
    any code, and falls exponentially to a tenth instead of in jumps; scales are frozen; one batch size.
Shapes: n, m images, k classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import Batch, ForgetRetain
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization, steps_per_epoch, train_mode
from qmu_edge.unlearn.distillation import divergence, teacher
from qmu_edge.unlearn.method import Method, Momentum, samples_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of SCRUB with rewind.

    Attributes:
        epochs: Passes over the retain set; the network is stored after each.
        forget_epochs: So many of the first epochs have a pass over the forget set.
        lr: First learning rate.
        final: The last one, relative to `lr`.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        temperature: Softens the logits that are compared.
        label_weight: Of the cross-entropy of the retain set (gamma of the paper).
        teacher_weight: Of the divergence from the original on the retain set (alpha of the paper).
    """

    epochs: Count = 5
    forget_epochs: Count = 3
    lr: Positive = 5e-3
    final: Positive = 0.1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 64
    temperature: Positive = 4.0
    label_weight: NotNegative = 1.0
    teacher_weight: NotNegative = 0.5


def matched_error(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], like: Int64[Tensor, " m"]
) -> float:
    """Share of wrong predictions where classes count as often as they occur in `like`.

    Classes of `like` without an image do not count.

    >>> logits = torch.eye(3)[[0, 1, 2, 2]]  # class 1 is wrong in 2 images of 3, class 2 is right
    >>> matched_error(logits, torch.tensor([1, 1, 1, 2]), torch.tensor([1, 2, 2, 0]))  # 2/3 of 1/3
    0.2222222222222222
    """
    k = logits.shape[1]
    wanted, there = like.bincount(minlength=k).double(), labels.bincount(minlength=k)
    weight = wanted[labels] / there[labels]
    wrong = logits.argmax(1) != labels
    return float((weight * wrong).sum() / weight.sum())


def rewind(errors: Sequence[float], reference: float) -> int:
    """Which of the errors is nearest to the reference; the last of equals, which had more repair.

    >>> rewind([0.1, 0.5, 0.3, 0.3], 0.35)
    3
    """
    return min(reversed(range(len(errors))), key=lambda e: abs(errors[e] - reference))


def check(model: Classifier, data: ForgetRetain, params: Params) -> None:
    """Refuse whole classes, and a validation set that says nothing about the classes of the forget set."""
    samples_only("scrub_r")(model, data, params)
    if not torch.isin(data.validation.labels, data.forget.labels).any():
        raise UnlearnError(
            "the validation set holds no image of the forget set's classes: scrub_r cannot tell which "
            "forget error is right"
        )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`; the stored network of the best epoch.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    forget_epochs = min(params.forget_epochs, params.epochs)
    passes = [(params.epochs, len(data.retain)), (forget_epochs, len(data.forget))]
    steps = sum(times * steps_per_epoch(n, params.batch) for times, n in passes)
    settings = Optimization.of(params, schedule="exponential")
    descent = Descent(model, settings, steps, data.progress)
    original = teacher(model)
    stored: list[Classifier] = []

    def compare(b: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = original(b.images)
        logits = model(b.images)
        return logits, divergence(target, logits, params.temperature)

    def obey(b: Batch) -> Tensor:
        logits, apart = compare(b)
        return params.label_weight * F.cross_entropy(logits, b.labels) + params.teacher_weight * apart

    def disobey(b: Batch) -> Tensor:
        return -compare(b)[1]

    data.progress.start("scrub_r", sum(times * n for times, n in passes))
    for number in range(params.epochs):
        model.train()
        descent.epoch(obey, data.retain.batches(params.batch, generator, data.augment))
        if number < forget_epochs:
            train_mode(model, statistics=False)
            descent.epoch(disobey, data.forget.batches(params.batch, generator, data.augment))
        descent.optimizer.zero_grad()  # gradients would be stored as well
        stored.append(copy.deepcopy(model))
    data.progress.finish()
    return _nearest(stored, data)


def _nearest(stored: list[Classifier], data: ForgetRetain) -> Classifier:
    """The network whose forget error is nearest to the last one's error on similar unseen images."""
    unseen, forget = data.validation.labels.cpu(), data.forget.labels.cpu()
    reference = matched_error(predict(stored[-1], data.validation), unseen, forget)
    errors = [matched_error(predict(m, data.forget), forget, forget) for m in stored]
    best = rewind(errors, reference)
    data.progress.note(
        f"scrub_r: back to epoch {best + 1} of {len(stored)}, forget error {errors[best]:.3f}, "
        f"reference {reference:.3f}"
    )
    return stored[best]


METHOD: Final = Method(
    run=run, params=Params,
    summary="obeys the original on the retain set, disobeys it on the forget set, rewinds (SCRUB+R)",
    reads=frozenset({"forget", "retain", "validation"}), check=check,
)  # fmt: skip
