"""Held-out matching: train forget images towards the distribution of confidences on unseen images.

A network is less confident, and more often wrong, on unseen images than on training images; validation images
tell how much. Forget images get the quantiles of the confidence on validation images of the same class: hard
images the low ones, easy images the high ones. How hard an image is was noted early in the training (see
`qmu_edge.train.difficulty`): a trained network is sure of every image, even under a wrong label. The rest of
the probability is distributed over the other classes in proportion to the original's predictions. Confidences
on validation images are measured again before every epoch, because they change with the network, and the
released network must not tell forget images from unseen ones. Training towards these targets converges where
both distributions agree, so it cannot overshoot. Classes that are forgotten whole get probability 0.

Batch-norm statistics are updated on both sets, and re-estimated from retain images at re-quantization.

For low-bit weights: gradients reach saturated weights, so that every integer code can change; the learning
rate is large enough to change codes.

Source: of this project. Relatives: the similar labels of Q-MUL (arXiv:2503.13917), the accuracy-guided
    smoothing of LoTUS (arXiv:2503.18314), held-out references of ReGUn (arXiv:2603.11210).
Shapes: n forget images, m validation images, k classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from qmu_edge.models.calibration import clamp_through
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.device import sent
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Augment, ForgetRetain, Pair, Samples
from qmu_edge.train.difficulty import confidence, ease_of, ranked
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.method import Method, Momentum, Share, validation_for_samples
from qmu_edge.unlearn.relabelling import pair_steps, pairs, possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of held-out matching.

    Attributes:
        epochs: Passes over the set that takes more batches, given its share of each batch.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step, of both sets.
        forget_share: Share of forget images in each batch.
        noted: Whether images are hard that training has noted as hard; otherwise those of which the network
            is least sure.
        views: Augmented views of each forget image by which that is told, where nothing is noted.
    """

    epochs: Count = 10
    lr: Positive = 0.02
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    forget_share: Share = 0.25
    noted: bool = True
    views: Annotated[int, Field(ge=0)] = 4


def targets(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], odds: Float[Tensor, " n"]
) -> Float[Tensor, "n k"]:
    """Probabilities with log-odds `odds` of the true class, the others in proportion to `logits`' softmax.

    >>> targets(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([0.0]))
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    true = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(true, -torch.inf).softmax(1)
    return torch.where(true, odds.sigmoid()[:, None], (-odds).sigmoid()[:, None] * others)


def ease(
    model: Classifier,
    data: ForgetRetain,
    logits: Float[Tensor, "n k"],
    params: Params,
    generator: torch.Generator,
) -> Float[Tensor, " n"]:
    """The share of images of the same class that are harder, for each forget image.

    Training has noted it. Without its notes, forget images are compared with each other only, by the
    confidence on the image (`logits`) and on augmented views; where nothing is augmented, there are no views.
    """
    labels = data.forget.labels.cpu()
    if data.classes:  # their targets do not depend on it
        return torch.zeros(len(labels))
    noted = ease_of(model.difficulty, data.forget, data.retain)
    if params.noted and noted is not None:
        return noted
    found = confidence(logits, labels)
    for _ in range(0 if data.augment == Augment() else params.views):
        found += confidence(predict(model, _view(data.forget, data.augment, generator)), labels)
    return ranked(found, labels)


def unseen_odds(model: Classifier, data: ForgetRetain, share: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Target confidence of each forget image: a quantile of those on validation images of its class.

    Args:
        model: The network whose confidences on validation images are measured.
        data: Forget and validation set; for classes that are forgotten whole the target is -inf.
        share: Which quantile, see `ease`.
    """
    labels, odds = data.forget.labels.cpu(), torch.full((len(share),), -torch.inf)
    if data.classes:
        return odds
    known = data.validation.labels.cpu()
    unseen = confidence(predict(model, data.validation), known)
    for label in set(labels.tolist()):
        ours, theirs = labels == label, known == label
        same = unseen[theirs] if theirs.any() else unseen
        odds[ours] = same.quantile(share[ours], interpolation="nearest")
    return odds


def _view(samples: Samples, augment: Augment, generator: torch.Generator) -> Samples:
    """The same images, each under one augmentation."""
    images = augment(samples.images(), generator).contiguous()
    pool = images.to(samples.pool.device)
    return Samples(pool, torch.arange(len(images), device=pool.device), samples.labels, samples.device)


def batches_of(params: Params) -> tuple[int, int]:
    """Forget and retain images in each batch, at least one of each.

    >>> batches_of(Params(batch=128, forget_share=0.25)), batches_of(Params(batch=8, forget_share=1.0))
    ((32, 96), (8, 1))
    """
    few = max(1, round(params.forget_share * params.batch))
    return few, max(1, params.batch - few)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    labels = data.forget.labels.cpu()
    logits = predict(model, data.forget)
    share = ease(model, data, logits, params, generator)
    logits = possible(logits, labels, data.unretained)
    sizes = batches_of(params)
    steps = pair_steps(len(data.forget), len(data.retain), sizes)
    descent = Descent(model, Optimization.of(params), params.epochs * steps, data.progress)

    def loss(wanted: Tensor, pair: Pair) -> Tensor:
        forget, retain = pair.first, pair.second
        f, r = model(pair.images).split([len(forget), len(retain)])
        target = wanted[sent(forget.positions, wanted.device)]
        forgotten = F.cross_entropy(f, target, reduction="sum")
        return (forgotten + F.cross_entropy(r, retain.labels, reduction="sum")) / len(pair)

    data.progress.start("held_out_match", params.epochs * steps * params.batch)
    for _ in range(params.epochs):
        odds = unseen_odds(model, data, share)
        wanted = targets(logits, labels, odds).to(data.forget.device)
        model.train()
        batches = pairs(data.forget, data.retain, sizes, generator, data.augment)
        with clamp_through(model):
            descent.epoch(partial(loss, wanted), batches)
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Views of the forget set, which are not needed where training has noted what is hard; then training."""
    few, others = batches_of(params)
    return Passes(FORWARD_ONLY * (1 + params.views), 0.0, params.epochs, few, others)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="the confidences of unseen images for the forget set, rank by rank (held-out matching)",
    reads=frozenset({"forget", "retain", "validation"}), check=validation_for_samples,
)  # fmt: skip
