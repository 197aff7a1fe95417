"""Orthogonal entropy unlearning (OEU-style): maximise uncertainty orthogonally to the retain gradient.

Forget images are trained towards equal probabilities of all classes. Their gradient is projected onto the
orthogonal complement of the retain gradient, so that to first order forgetting does not change the retain
loss. Rounding changes the direction of the step: each epoch reports the cosine between the change of the
quantized weights and the retain gradient.

Source: Zhang, Tong, Dong, Xu, Wang and Yuan, "Forget by Uncertainty: Orthogonal Entropy Unlearning for
    Quantized Neural Networks", ICML 2026, arXiv:2602.00567.
Differs: this is a reconstruction from the abstract, which gives neither formula nor number: loss, step,
    hyperparameters and stopping rule are ours. The default loss is the cross-entropy to uniform labels,
    because the gradient of the entropy vanishes for the confident predictions that memorised images have.
    The retain gradient is estimated from one batch. Batch-norm statistics and scales are frozen.
Shapes: n images, k classes, d parameters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.calibration import quantized_weights
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import TRAINED, Images, Method, Momentum, validation_for_samples
from qmu_edge.unlearn.stopping import Crossing


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of OEU-style unlearning.

    Attributes:
        epochs: Passes over the retain set; the forget set is repeated. Runs on single samples may stop
            earlier, runs on whole classes do not.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step, of each set.
        forget_weight: Weight of the projected forget gradient; the retain gradient has weight 1.
        loss: "uniform" or "entropy", see `LOSSES`.
        projection: "whole": orthogonal to the retain gradient of all parameters together; "tensor": of each
            parameter tensor separately, which is stricter.
        conflict_only: Project only where forgetting would raise the retain loss.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    forget_weight: Positive = 1.0
    loss: Literal["uniform", "entropy"] = "uniform"
    projection: Literal["whole", "tensor"] = "whole"
    conflict_only: bool = False


def uniform_loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean cross-entropy to equal probabilities; its gradient in a logit is (p - 1/k) / n.

    >>> uniform_loss(torch.zeros(2, 4)).exp()
    tensor(4.)
    """
    return -logits.log_softmax(1).mean()


def negative_entropy(logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean of -H(p) in nats; its gradient vanishes for equal and for certain probabilities.

    >>> (-negative_entropy(torch.zeros(2, 4))).exp()
    tensor(4.)
    """
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1).mean()


LOSSES: Final = {"uniform": uniform_loss, "entropy": negative_entropy}


def orthogonal(
    forget: Float[Tensor, " d"], retain: Float[Tensor, " d"], sizes: list[int], *, conflict_only: bool
) -> Float[Tensor, " d"]:
    """Forget gradient minus its projection onto the retain gradient, in each segment separately.

    Args:
        forget: The gradient that is projected.
        retain: The gradient that the result is orthogonal to.
        sizes: Lengths of the segments of both vectors.
        conflict_only: Do not change segments along which descent would lower the retain loss.

    >>> f, r = torch.tensor([3.0, 4.0, 1.0]), torch.tensor([2.0, 0.0, -1.0])
    >>> orthogonal(f, r, [3], conflict_only=False)
    tensor([1., 4., 2.])
    >>> orthogonal(f, r, [2, 1], conflict_only=True)
    tensor([3., 4., 0.])
    """
    pieces = list(zip(torch.split(forget, sizes), torch.split(retain, sizes), strict=True))
    along = torch.stack([f @ r for f, r in pieces])
    if conflict_only:
        along = along.clamp_max(0.0)
    lengths = torch.stack([r @ r for _, r in pieces]).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.cat([f - c * r for (f, r), c in zip(pieces, along / lengths, strict=True)])


def cosine_of_change(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """Cosine between the change of the quantized weights and a gradient; 0 when no code changed.

    It is negative where the change lowers the loss to first order. All mappings have the keys of `before`.
    """
    change = torch.cat([(after[name] - before[name]).flatten() for name in before])
    return F.cosine_similarity(change, torch.cat([gradient[name].flatten() for name in before]), dim=0)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params)
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    crossing = None if data.classes else Crossing(descent, data)
    forget = data.forget.forever(params.batch, generator, data.augment)
    data.progress.start("oeu", params.epochs * len(data.retain))
    for number in range(params.epochs):
        before = quantized_weights(model)
        gradient = _epoch(descent, data, forget, params, generator)
        named = {span.name: v for span, v in zip(descent.spans, descent.views(gradient), strict=True)}
        cosine = cosine_of_change(before, quantized_weights(model), named)
        data.progress.note(f"oeu: epoch {number + 1}, change of codes against retain gradient {cosine:.3f}")
        if crossing is not None and crossing.reached():
            break
    data.progress.finish()
    return model


def _epoch(
    descent: Descent, data: ForgetRetain, forget: Iterator[Batch], params: Params, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """One pass over the retain set; returns the sum of the retain gradients."""
    model, loss = train_mode(descent.model, statistics=False), LOSSES[params.loss]
    total = torch.zeros(descent.spans[-1].indices.stop, device=descent.device)
    sizes = [p.numel() for p in descent.parameters] if params.projection == "tensor" else [len(total)]

    def uncertainty(batch: Batch) -> Tensor:
        return loss(model(batch.images))

    for b, f in zip(data.retain.batches(params.batch, generator, data.augment), forget, strict=False):
        retain = descent.gradient(cross_entropy(model), b)
        away = descent.gradient(uncertainty, f)
        total += retain
        away = orthogonal(away, retain, sizes, conflict_only=params.conflict_only)
        # Before momentum and weight decay, which the optimizer adds.
        descent.follow(retain.add_(away, alpha=params.forget_weight), len(b))
    descent.require_finite()
    return total


def work(params: Params) -> Passes:
    """All epochs, each with a look at the forget set; runs on samples mostly end before."""
    return Passes(FORWARD_ONLY * params.epochs, 0.0, params.epochs, params.batch, params.batch)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="uncertain about the forget set, across the gradient of the retain set (OEU-style)",
    touches=TRAINED - {"bn_stats"}, reads=frozenset[Images]({"forget", "retain", "validation"}),
    check=validation_for_samples,
)  # fmt: skip
