"""Q-MUL: relabel the forget set with similar classes and balance the two gradient norms in each epoch.

A forget image is trained towards the class whose predicted probability is nearest to that of the true one,
not towards a random one: of all wrong labels, it asks for the smallest change. The losses of the two sets are
weighted so that their mean gradient norms are equal; or by the Nash bargaining solution, see `munba`.

Source: Tong, Wang, Yuan and Hu, "Robust Machine Unlearning for Quantized Neural Networks via Adaptive
    Gradient Reweighting with Similar Labels", ICCV 2025, arXiv:2503.13917.
Differs: this is the algorithm of the paper, not of the released code, which compares a logit with a
    probability, loses one index after removing the true class, and permutes the labels between images. Labels
    and norms are measured with frozen batch-norm statistics; norms over at most max(10, forget batches)
    batches of each set, augmented as in training, without quantizer scales; scales are frozen unless
    `scale_lr` is given. Labels are predicted without augmentation in evaluation mode. The loop is "mixed" for
    all datasets; the released code takes the sequential one for CIFAR-10 and SVHN.
Shapes: n forget images, k classes.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method, Momentum
from qmu_edge.unlearn.methods.munba import Bargain, nash_epoch
from qmu_edge.unlearn.methods.random_label import random_labels
from qmu_edge.unlearn.relabelling import Loop, epoch, pair_steps, possible, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of Q-MUL.

    Attributes:
        epochs: Passes over forget and retain set.
        lr: Highest learning rate of the cosine schedule; the paper searches 1e-3..1e-1. The two weights
            add up to 1, so a rate is about half of what the same rate is for `random_label`.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        loop: "mixed" or "sequential", see `relabelling.epoch`.
        similar_labels: Off: random labels (the paper's ablation).
        reweighting: Off: both losses have weight 1 (the paper's ablation).
        weighting: "epoch": one pair of weights an epoch, the paper's; "nash": the bargaining solution in
            every step, see `munba.nash_epoch`, which ignores `loop` and `norm`.
        norm: "tensors": sum of the norms of all parameter tensors, as in the paper's code; "global":
            the norm of the whole gradient.
        norm_batches: Batches of each set over which norms are averaged, or the number of forget batches where
            that is larger.
        nash_clip_norm, nash_agreement, nash_forget_alone, nash_retain_alone: For the weighting "nash", see
            `munba.Params`.
        scale_lr: Learning rate of quantizer scales relative to `lr`; 0 freezes them.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    loop: Loop = "mixed"
    similar_labels: bool = True
    reweighting: bool = True
    weighting: Literal["epoch", "nash"] = "epoch"
    norm: Literal["tensors", "global"] = "tensors"
    norm_batches: Count = 10
    nash_clip_norm: Positive = 1.0
    nash_agreement: Positive = 1e-3
    nash_forget_alone: NotNegative = 0.1
    nash_retain_alone: NotNegative = 1.0
    scale_lr: NotNegative = 0.0


def similar_labels(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The class other than the label whose probability is nearest to the label's; none whose logit is -inf.

    For an image that is classified correctly this is the second likeliest class, found by comparing logits:
    at high confidence the differences of all other probabilities from 1 are equal in floating point.

    >>> logits = torch.log(torch.tensor([[0.7, 0.1, 0.2], [0.5, 0.3, 0.2]]))
    >>> similar_labels(logits, torch.tensor([0, 1]))  # runner-up; |.2 - .3| < |.5 - .3|
    tensor([2, 2])
    """
    true = F.one_hot(labels, logits.shape[1]).bool()
    runner_up = logits.masked_fill(true, -torch.inf).argmax(1)
    p = logits.double().softmax(1)
    distance = (p - p.gather(1, labels[:, None])).abs().masked_fill(true | logits.isneginf(), torch.inf)
    return torch.where(logits.argmax(1) == labels, runner_up, distance.argmin(1))


def balance(forget_norm: float, retain_norm: float) -> tuple[float, float]:
    """Weights (forget, retain), adding up to 1, under which both gradients have the same norm.

    >>> balance(3.0, 1.0)
    (0.25, 0.75)
    """
    total = forget_norm + retain_norm
    if total == 0.0:
        return 0.5, 0.5
    return retain_norm / total, forget_norm / total


def mean_gradient_norm(
    model: nn.Module,
    samples: Samples,
    descent: Descent,
    params: Params,
    generator: torch.Generator,
    *,
    batches: int,
    augment: Augment,
) -> float:
    """Mean over mini-batches of the norm of the gradient of the cross-entropy.

    Images are augmented as in the steps that the norms are for: as they are, known by heart, they have hardly
    any gradient. Batch-norm statistics are frozen. Quantizer scales and frozen parameters do not count.
    """
    train_mode(model, statistics=False)
    scales = ("weight_scale", "activation_scale")
    counted = [span.indices for span in descent.spans if span.group not in scales]
    norms: list[Tensor] = []
    for b in islice(samples.batches(params.batch, generator, augment), batches):
        gradient = descent.gradient(cross_entropy(model), b)
        each = torch.stack(torch._foreach_norm([gradient[indices] for indices in counted]))
        norms.append(each.norm() if params.norm == "global" else each.sum())
    return float(torch.stack(norms).mean())


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    nash = params.reweighting and params.weighting == "nash"
    descent = _descent(model, data, params, nash=nash)
    bargain = Bargain(params.nash_agreement, (params.nash_forget_alone, params.nash_retain_alone))
    data.progress.start("qmul", params.epochs * (len(data.forget) + len(data.retain)))
    for number in range(params.epochs):
        forget = data.forget.relabelled(_labels(model, data, params, generator))
        if nash:
            nash_epoch(descent, data, forget, bargain, batch=params.batch, generator=generator)
            continue
        weights = (1.0, 1.0)
        if params.reweighting:
            weights = _weights(descent, data, forget, params, generator, number=number)
        epoch(
            descent, data, forget, weights,
            loop=params.loop, batch=params.batch, generator=generator,
        )  # fmt: skip
    data.progress.finish()
    return model


def _descent(model: Classifier, data: ForgetRetain, params: Params, *, nash: bool) -> Descent:
    f, r = len(data.forget), len(data.retain)
    each = pair_steps(f, r, (params.batch,) * 2) if nash else steps_of(params.loop, f, r, params.batch)
    settings = Optimization.of(params, clip_norm=params.nash_clip_norm if nash else 0.0)
    return Descent(model, settings, params.epochs * each, data.progress)


def _weights(
    descent: Descent,
    data: ForgetRetain,
    forget: Samples,
    params: Params,
    generator: torch.Generator,
    *,
    number: int,
) -> tuple[float, float]:
    cap = max(params.norm_batches, steps_per_epoch(len(forget), params.batch))
    f, r = (
        mean_gradient_norm(descent.model, s, descent, params, generator, batches=cap, augment=data.augment)
        for s in (forget, data.retain)
    )
    weights = balance(f, r)
    data.progress.note(
        f"qmul: epoch {number + 1}, gradient norms forget {f:.3g} retain {r:.3g}, "
        f"weights {weights[0]:.3f} {weights[1]:.3f}"
    )
    return weights


def _labels(
    model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator
) -> Int64[Tensor, " n"]:
    forget = data.forget
    if not params.similar_labels:
        return random_labels(len(forget), model.shape.classes, generator)
    labels = forget.labels.cpu()
    return similar_labels(possible(predict(model, forget), labels, data.unretained), labels)


def work(params: Params) -> Passes:
    """Labels, norms and steps; with few forget images `norm_batches` of the retain set are more than that."""
    each = FORWARD_ONLY * params.similar_labels
    if not params.reweighting:
        return Passes(params.epochs * (each + 1), params.epochs)
    if params.weighting == "nash":
        return Passes(params.epochs * each, 0.0, params.epochs, params.batch, params.batch)
    return Passes(params.epochs * (each + 3), params.epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="similar labels for the forget set, adaptively reweighted against the retain set (Q-MUL)",
)  # fmt: skip
