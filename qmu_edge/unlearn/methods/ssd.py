"""Selective synaptic dampening: shrink the weights that are far more important to the forget set than to all.

There is no training: the importance of each weight to both sets is measured, and each chosen weight is
multiplied by the ratio of its importance to all images and to the forget set. The method is effective on
whole classes; images drawn at random depend on the same weights as the rest.

Source: Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective
    Synaptic Dampening", AAAI 2024, arXiv:2308.07707.
Differs: only convolution and classifier weights are measured and dampened, not batch-norm, biases and scales.
    Saturated weights are measured as well, although the quantizer gives them no gradient: they are the
    largest. Importance does not depend on the batch size, see `importance`. Batches of all images are
    shuffled, so that hardly any holds forget images alone: the ratio of two importances has no bound, and
    `threshold` is not the paper's alpha. The released loader takes retain images first and forget images
    after them; variant "released" does. A run that would change nothing is an error.
Shapes: d weights, or the shape of one parameter.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.calibration import clamp_through, parameter_group
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of selective synaptic dampening.

    Attributes:
        variant: Importance to all images: "mixed": from shuffled batches of all; "released": from batches of
            forget images and of retain images apart, where a ratio is at most all / forget images (10 for a
            tenth of them, so that `threshold` has to be smaller).
        threshold: Ratio of importances, forget set to all images, above which a weight is chosen (alpha of
            the paper); smaller forgets more.
        strength: Factor on the ratio of importances that the weight is multiplied by (lambda of the paper);
            smaller forgets more.
        batch: Images per gradient. Large batches emphasise what the images of a set have in common; with one
            image per batch the ratio of importances is at most all / forget images.
    """

    variant: Literal["mixed", "released"] = "mixed"
    threshold: Positive = 10.0
    strength: Positive = 1.0
    batch: Count = 64


def importance(
    descent: Descent, samples: Samples, batch: int, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """Diagonal importance: squares of the summed gradients of batches, over the number of images.

    With one image per batch this is the diagonal of the empirical Fisher information. Where gradients have
    mean zero its expectation does not depend on the batch size, so that a forget set smaller than a batch
    does not seem more important.
    """
    total = torch.zeros(sum(p.numel() for p in descent.parameters), device=descent.device)
    for b in samples.batches(batch, generator):
        gradient = descent.gradient(cross_entropy(descent.model, "sum"), b)
        total.addcmul_(gradient, gradient)
        descent.progress.advance(len(b))
    return total / len(samples)


def dampening(
    forget: Float[Tensor, "*d"], everything: Float[Tensor, "*d"], params: Params
) -> tuple[Float[Tensor, "*d"], Bool[Tensor, "*d"]]:
    """Factors on the weights, at most 1, and the mask of chosen weights.

    >>> factors, chosen = dampening(torch.tensor([30.0, 9.0, 0.0]), torch.tensor([2.0, 1.0, 0.0]), Params())
    >>> factors, chosen  # 30 > 10 * 2
    (tensor([0.0667, 1.0000, 1.0000]), tensor([ True, False, False]))
    """
    chosen = forget > params.threshold * everything
    factors = (params.strength * everything / forget).clamp_max(1.0)
    return torch.where(chosen, factors, 1.0), chosen


def importances(
    model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator
) -> tuple[Descent, Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Importance of every weight to the forget set and to all images.

    Returns:
        A run over the weights, in whose order the importances are: of the forget set, of all images.

    Raises:
        UnlearnError: The loss is not finite.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_group(name, model) in ("weights", "head") and parameter.dim() > 1)
    descent = Descent(model, Optimization(), 1, data.progress)
    mixed, n = params.variant == "mixed", len(data.forget)
    second = data.forget + data.retain if mixed else data.retain
    data.progress.start("importances", n + len(second))
    train_mode(model, statistics=False)
    with clamp_through(model):
        f, e = (importance(descent, s, params.batch, generator) for s in (data.forget, second))
    if not mixed:
        e = (n * f + len(second) * e) / (n + len(second))
    descent.require_finite()
    return descent, f, e


def require_chosen(number: int, method: str, threshold: float) -> None:
    """Refuse a run that has chosen no weight.

    Raises:
        UnlearnError: `number` is 0.
    """
    if number == 0:
        raise UnlearnError(
            f"no weight matters {threshold:g} times more to the forget set than to all images: "
            f"nothing would be forgotten; give unlearn.{method}.threshold a smaller value"
        )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, the loss is not finite, or no weight is chosen.
    """
    data.retain.require_some("retain")
    descent, f, e = importances(model, data, params, generator)
    factors, chosen = dampening(f, e, params)
    number = int(chosen.sum())
    require_chosen(number, "ssd", params.threshold)
    with torch.no_grad():
        torch._foreach_mul_(descent.parameters, descent.views(factors))
    data.progress.finish(f"{number:,} of {len(chosen):,} weights dampened")
    return model


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(1.0 + (params.variant == "mixed"), 1.0)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="shrinks the weights that matter more to the forget set than to all; no training (SSD)",
    touches=frozenset({"weights", "head"}),
)  # fmt: skip
