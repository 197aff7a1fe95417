"""MSG: re-initialise the convolution weights with the smallest difference of retain and forget gradient.

Weights are re-initialised where both gradients are small or agree. Then the network is fine-tuned on the
retain set; gradients of the other convolution weights are damped to a tenth.

Source: second of the NeurIPS 2023 unlearning challenge, as restated in Cadet et al., "Deep Unlearn:
    Benchmarking Machine Unlearning for Image Classification", arXiv:2410.01276.
Differs: a new value is drawn at random from the weights of the same output channel: He initialisation would
    not fit the learned steps, which are kept. A saturated weight has gradient exactly 0 whatever its
    importance, so those are chosen last. The gradient is a mean over images with frozen batch-norm
    statistics; the learning rate falls along a cosine, not linearly.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method, Momentum, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of MSG.

    Attributes:
        epochs: Passes over the retain set.
        lr: Highest learning rate; it rises over a share of the epochs and falls over the others.
        rise: That share.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        share: Share of the weights of each convolution that are re-initialised.
        damping: Factor on the gradient of the other convolution weights.
    """

    epochs: Count = 5
    lr: Positive = 1e-3
    rise: Fraction = 0.5
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 64
    share: Share = 0.3
    damping: Fraction = 0.1


def smallest(gradient: Float[Tensor, "*w"], share: float) -> Bool[Tensor, "*w"]:
    """Mask of the `share` of entries with the smallest magnitude; entries that are exactly 0 are chosen last.

    >>> smallest(torch.tensor([0.3, 0.0, -0.1, -2.0]), 0.5)
    tensor([ True, False,  True, False])
    """
    size = gradient.abs().flatten()
    ranked = size.masked_fill(size == 0.0, torch.inf).argsort(stable=True)
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[ranked[: round(share * len(ranked))]] = True
    return mask.view(gradient.shape)


def redraw(
    weight: Float[Tensor, "o i h w"], mask: Bool[Tensor, "o i h w"], generator: torch.Generator
) -> Float[Tensor, "o i h w"]:
    """`weight` with masked entries replaced by random ones of the same output channel, with replacement."""
    rows = weight.flatten(1)
    source = torch.randint(rows.shape[1], rows.shape, generator=generator).to(weight.device)
    return torch.where(mask, rows.gather(1, source).view(weight.shape), weight)


def mean_gradient(
    descent: Descent, samples: Samples, batch: int, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """Gradient of the mean cross-entropy of all images; batch-norm statistics are frozen."""
    model = train_mode(descent.model, statistics=False)
    total = torch.zeros((), device=descent.device)
    for b in samples.batches(batch, generator):
        total = total + descent.gradient(cross_entropy(model, "sum"), b)
    return total / len(samples)


@torch.no_grad()
def reset(
    descent: Descent, gradient: Float[Tensor, " d"], params: Params, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """Re-initialise the convolution weights with the smallest `gradient`.

    Returns:
        Factors on later gradients: `params.damping` for the other convolution weights, else 1.
    """
    factors = torch.ones_like(gradient)
    places = zip(
        descent.spans, descent.parameters, descent.views(gradient), descent.views(factors), strict=True
    )
    for span, weight, of_weight, factor in places:
        if span.group == "weights":
            mask = smallest(of_weight, params.share)
            weight.copy_(redraw(weight, mask, generator))
            factor.copy_(torch.where(mask, 1.0, params.damping))
    return factors


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params, warmup=params.rise * params.epochs)
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("msg", params.epochs * len(data.retain))
    chosen = torch.randperm(len(data.retain), generator=generator)[: len(data.forget)]
    kept, lost = (
        mean_gradient(descent, s, params.batch, generator) for s in (data.retain.take(chosen), data.forget)
    )
    factors = reset(descent, kept - lost, params, generator)
    for _ in range(params.epochs):
        model.train()
        for b in data.retain.batches(params.batch, generator, data.augment):
            gradient = descent.gradient(cross_entropy(model), b)
            descent.follow(gradient * factors, len(b))
        descent.require_finite()
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Two gradients, of the forget set and of as many retain images; then training."""
    return Passes(2.0, params.epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="draw the convolution weights with the smallest gradient anew, then train on the retain set",
)  # fmt: skip
