"""NegGrad+: descend the retain loss and ascend the forget loss with a small weight, in every step.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023, arXiv:2302.09880, where it is the strongest simple baseline.
Differs: the forget loss is bounded: an image has no gradient once its loss is log k, that of a uniform guess
    among k classes, since under an unbounded loss a few images would destroy the network. Momentum, weight
    decay and a cosine schedule, where the released code takes plain SGD at a constant rate. Batch-norm
    statistics and scales are frozen.
Shapes: n images, k classes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Pair, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.method import TRAINED, Method, Momentum


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of NegGrad+.

    Attributes:
        epochs: Passes over the retain set; the forget set is repeated or cut to as many batches.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images of each set per step.
        retain_weight: Weight w of the retain loss, 0..1; that of the forget loss is 1 - w.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    retain_weight: Fraction = 0.95


def bounded_loss(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the cross-entropy of each image, clamped at log k.

    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]])  # undecided, wrong, right
    >>> bounded_loss(logits, torch.tensor([0, 1, 0]))  # 2/3 of log 2
    tensor(0.4621)
    """
    each = F.cross_entropy(logits, labels, reduction="none")
    return each.clamp_max(math.log(logits.shape[1])).mean()


def pairs(data: ForgetRetain, batch: int, generator: torch.Generator) -> Iterator[Pair]:
    """One pass over the retain set, with a forget batch for each retain batch; the forget set is repeated."""
    again = data.forget.forever(batch, generator, data.augment)
    return map(Pair, data.retain.batches(batch, generator, data.augment), again)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params)
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    weight = params.retain_weight

    def loss(pair: Pair) -> Tensor:
        retain, forget = pair.first, pair.second
        r, f = model(pair.images).split([len(retain), len(forget)])
        kept = F.cross_entropy(r, retain.labels)
        return weight * kept - (1.0 - weight) * bounded_loss(f, forget.labels)

    again = steps * min(params.batch, len(data.forget))
    data.progress.start("neg_grad_plus", params.epochs * len(data.retain) + again)
    train_mode(model, statistics=False)
    for _ in range(params.epochs):
        descent.epoch(loss, pairs(data, params.batch, generator))
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(0.0, 0.0, params.epochs, params.batch, params.batch)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="down the loss of the retain set and, within bounds, up that of the forget set (NegGrad+)",
    touches=TRAINED - {"bn_stats"},
)  # fmt: skip
