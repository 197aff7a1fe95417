"""SCRUB with rewind: minimise the divergence from the original on retain images, maximise it on forget ones.

Passes that maximise the KL divergence from the original network on the forget set alternate with passes that
minimise it on the retain set, so that every stored network has been repaired. A forget error above the error
on unseen images would reveal the deletion to a membership inference attack, so the checkpoint is returned
whose forget error is nearest to the latter (rewind). A class that is forgotten whole has no unseen images to
compare with: the last network is returned, SCRUB without rewind.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023, arXiv:2302.09880.
Differs: errors are those of the quantized weights, as exported. The learning rate is forty times the released
    one, which changes hardly any code, and falls exponentially to a tenth instead of in steps; scales are
    frozen; one batch size. Batch-norm statistics move in passes over the forget set too, as released: were
    they frozen, network and original would agree at the start, where the gradient of their divergence is
    zero.
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
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.distillation import divergence, teacher
from qmu_edge.unlearn.method import Method, Momentum, validation_for_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of SCRUB with rewind.

    Attributes:
        epochs: Passes over the retain set; the network after each may be returned.
        forget_epochs: Number of first epochs that begin with a pass over the forget set; released are 3 of 5,
            after which the rest repairs too much at this rate.
        lr: First learning rate; for a whole class half of it does less harm.
        final: Last learning rate, relative to `lr`.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        temperature: Temperature of the softmax in the divergence.
        label_weight: Weight of the cross-entropy on the retain set (gamma of the paper).
        teacher_weight: Weight of the divergence from the original on the retain set (alpha of the paper).
    """

    epochs: Count = 5
    forget_epochs: Count = 5
    lr: Positive = 0.02
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
    """Error rate, with classes weighted by their frequency in `like`.

    Classes of `like` that do not occur in `labels` do not count.

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
    """Index of the error nearest to the reference; the last of equals, which had more retain passes.

    >>> rewind([0.1, 0.5, 0.3, 0.3], 0.35)
    3
    """
    return min(reversed(range(len(errors))), key=lambda e: abs(errors[e] - reference))


def check(model: Classifier, data: ForgetRetain, params: Params) -> None:
    """Refuse samples where the validation set holds no image of their classes."""
    validation_for_samples(model, data, params)
    if not data.classes and not torch.isin(data.validation.labels, data.forget.labels).any():
        raise UnlearnError(
            "the validation set holds no image of the forget set's classes: scrub_r cannot tell which "
            "forget error is right"
        )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`; returns the checkpoint of the best epoch, of classes the last.

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
        if number < forget_epochs:
            train_mode(model, statistics=len(data.forget) > 1)  # the variance of one value is undefined
            descent.epoch(disobey, data.forget.batches(params.batch, generator, data.augment))
        model.train()
        descent.epoch(obey, data.retain.batches(params.batch, generator, data.augment))
        if not data.classes:
            descent.optimizer.zero_grad()  # gradients would be stored as well
            stored.append(copy.deepcopy(model))
    data.progress.finish()
    return _nearest(stored, data) if stored else model


def _nearest(stored: list[Classifier], data: ForgetRetain) -> Classifier:
    """The checkpoint whose forget error is nearest to the last one's error on validation images.

    The latter is weighted by the class frequencies of the forget set.
    """
    unseen, forget = data.validation.labels.cpu(), data.forget.labels.cpu()
    reference = matched_error(predict(stored[-1], data.validation), unseen, forget)
    errors = [matched_error(predict(m, data.forget), forget, forget) for m in stored]
    best = rewind(errors, reference)
    data.progress.note(
        f"scrub_r: back to epoch {best + 1} of {len(stored)}, forget error {errors[best]:.3f}, "
        f"reference {reference:.3f}"
    )
    return stored[best]


def work(params: Params) -> Passes:
    """Two networks see every batch; the one of each epoch is judged on the forget set."""
    both, forget = 1.0 + FORWARD_ONLY, min(params.forget_epochs, params.epochs)
    return Passes(both * forget + FORWARD_ONLY * params.epochs, both * params.epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="disobeys the original on the forget set, obeys it on the retain set, rewinds (SCRUB+R)",
    reads=frozenset({"forget", "retain", "validation"}), check=check,
)  # fmt: skip
