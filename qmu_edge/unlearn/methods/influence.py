"""Influence function: one step along the difference of the mean gradients of forget and retain set.

To first order, training without the forget set would have ended at the weights plus H^-1 v, where v is that
difference, scaled by the share of the forget set, and H the Hessian. Variant "released" leaves H out;
"diagonal_fisher" divides by the diagonal Fisher information of the retain set. The step length is found by a
line search on validation images unless `alpha` is given.

Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017,
    arXiv:1703.04730; for unlearning Izzo et al., "Approximate Data Deletion from Machine Learning Models",
    AISTATS 2021, arXiv:2002.10077, in the form that the SalUn family of papers compares with ("IU").
Differs: weights and biases only: a small change of a scale or a batch-norm affects a whole layer. The papers'
    code is meant to multiply by an inverse Fisher (WoodFisher) and only rescales one gradient instead, so
    that in effect it takes a step along v; "released" is that effect without the rescaled rest. Their one
    fixed alpha (1..20) is too long or too short for most networks, hence the search; images of forgotten
    classes do not count in it, and a loss of accuracy counts as far as chance does not explain it: rounding
    weights anew, which the smallest step does, changes the predictions of some images. Damping is relative to
    the mean of the Fisher.
Shapes: d parameters that may move.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import Group, train_only
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.train.requantize import average_statistics
from qmu_edge.unlearn.fisher import diagonal_fisher
from qmu_edge.unlearn.method import BOTH, Method

MOVES: Final[frozenset[Group]] = frozenset({"weights", "bias", "head"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of the influence step.

    Attributes:
        variant: "released": along the gradient difference; "diagonal_fisher": divided by the Fisher.
        alpha: Step length; the papers search 1..20. 0: doubled from `shortest` to at most `longest` while
            validation accuracy falls by no more than `max_drop`.
        statistics_images: Retain images from which the search takes batch-norm statistics anew for each
            length, as re-quantization will: under those of the original, a step looks worse than it is.
        shortest, longest: First and last step length of the search.
        max_drop: Largest loss of validation accuracy in the search, as a fraction of the images.
        errors: Standard errors of the number of changed predictions that a loss may exceed `max_drop` by.
        damping: Added to the Fisher, relative to its mean.
        smallest: Added to the Fisher, so that a network without any curvature does not divide by zero.
        batch: Images per gradient of the mean.
        fisher_batch: Images per squared gradient of the Fisher.
    """

    variant: Literal["released", "diagonal_fisher"] = "released"
    alpha: NotNegative = 0.0
    statistics_images: Count = 1024
    shortest: Positive = 2.0**-10
    longest: Positive = 2.0**10
    max_drop: Fraction = 0.01
    errors: NotNegative = 2.0
    damping: Positive = 1.0
    smallest: Positive = 1e-12
    batch: Count = 128
    fisher_batch: Count = 32


def direction(forget: Float[Tensor, " d"], retain: Float[Tensor, " d"], share: float) -> Float[Tensor, " d"]:
    """First-order change of the weights by removing the forget set, which is `share` of all images.

    >>> direction(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), 0.5)
    tensor([ 0.5000, -1.0000])
    """
    return share * (forget - retain)


def precondition(
    step: Float[Tensor, " d"], fisher: Float[Tensor, " d"], params: Params
) -> Float[Tensor, " d"]:
    """Divide a step by the damped diagonal Fisher.

    >>> precondition(torch.ones(2), torch.tensor([0.0, 2.0]), Params(damping=1.0))
    tensor([1.0000, 0.3333])
    """
    return step / (fisher + params.damping * fisher.mean() + params.smallest)


def costs_too_much(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"], params: Params) -> bool:
    """Whether fewer images are right after a step than `max_drop` and chance allow.

    Of images whose prediction turned right or wrong by chance, as many turn either way (McNemar's test): the
    difference has the standard error sqrt(turned).

    >>> right = torch.ones(100, dtype=torch.bool)
    >>> five, four = (torch.arange(100) >= n for n in (5, 4))  # 5 > 2 sqrt(5), 4 = 2 sqrt(4)
    >>> [costs_too_much(right, after, Params(max_drop=0.0)) for after in (five, four)]
    [True, False]
    """
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    return lost - won > params.max_drop * len(before) + params.errors * math.sqrt(lost + won)


def lengths(params: Params) -> list[float]:
    """Step lengths that the search tries, each twice the one before.

    >>> lengths(Params(shortest=0.5, longest=4.0))
    [0.5, 1.0, 2.0, 4.0]
    """
    found = []
    alpha = params.shortest
    while alpha <= params.longest:
        found.append(alpha)
        alpha *= 2.0
    return found


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Move `model` by one step, in place.

    Raises:
        UnlearnError: A set is empty, a gradient is not finite, or every step length costs too much accuracy.
    """
    data.retain.require_some("retain")
    train_only(model, MOVES)
    descent = Descent(model, Optimization(), 1, data.progress)
    images = len(data.forget) + len(data.retain)
    data.progress.start("influence", images)
    train_mode(model, statistics=False)
    forget = _mean_gradient(descent, data, data.forget, params, generator)
    retain = _mean_gradient(descent, data, data.retain, params, generator)
    step = direction(forget, retain, len(data.forget) / images)
    if params.variant == "diagonal_fisher":
        fisher = diagonal_fisher(
            descent, data.retain, classes=model.shape.classes, batch=params.fisher_batch,
            augment=data.augment, generator=generator,
        )  # fmt: skip
        step = precondition(step, fisher, params)
    descent.require_finite()
    start = [p.detach().clone() for p in descent.parameters]
    alpha = params.alpha or _search(descent, start, step, data, params, generator)
    _move(descent, start, step, alpha)
    data.progress.finish(f"alpha {alpha:g}")
    return model


def _mean_gradient(
    descent: Descent, data: ForgetRetain, samples: Samples, params: Params, generator: torch.Generator
) -> Float[Tensor, " d"]:
    total = torch.zeros(sum(p.numel() for p in descent.parameters), device=samples.device)
    for b in samples.batches(params.batch, generator, data.augment):
        total += descent.gradient(cross_entropy(descent.model, "sum"), b)
        data.progress.advance(len(b))
    return total / len(samples)


@torch.no_grad()
def _move(descent: Descent, start: list[Tensor], step: Float[Tensor, " d"], alpha: float) -> None:
    torch._foreach_copy_(descent.parameters, start)
    torch._foreach_add_(descent.parameters, descent.views(step), alpha=alpha)


def _search(
    descent: Descent,
    start: list[Tensor],
    step: Float[Tensor, " d"],
    data: ForgetRetain,
    params: Params,
    generator: torch.Generator,
) -> float:
    """The largest step length before accuracy drops too much; leaves the model changed."""
    before = _right(descent.model, data, params, generator)
    best = 0.0
    for alpha in lengths(params):
        _move(descent, start, step, alpha)
        if costs_too_much(before, _right(descent.model, data, params, generator), params):
            break
        best = alpha
    if best == 0.0:
        raise UnlearnError(
            f"influence: the smallest step (alpha {params.shortest:g}) costs more than "
            f"{params.max_drop:.1%} of validation accuracy; allow more with max_drop, or give alpha"
        )
    return best


def _right(model: Any, data: ForgetRetain, params: Params, generator: torch.Generator) -> Bool[Tensor, " n"]:
    """Which validation images of retained classes are classified correctly; moves batch-norm statistics."""
    judges, images = _judges(data), params.statistics_images
    average_statistics(model, data.retain, params.batch, generator, Progress(), images)
    return predict(model, judges).argmax(1) == judges.labels.cpu()


def _judges(data: ForgetRetain) -> Samples:
    """Validation images of retained classes."""
    forgotten = torch.tensor(data.classes, dtype=torch.int64, device=data.validation.labels.device)
    return data.validation.take(torch.nonzero(~torch.isin(data.validation.labels, forgotten))[:, 0])


def _check(model: Classifier, data: ForgetRetain, params: Params) -> None:
    """Require validation images where the step length is searched."""
    if params.alpha == 0.0:
        _judges(data).require_some("validation")


def work(params: Params) -> Passes:
    """Gradients; not the search for a step length, which reads validation images."""
    return Passes(1.0, 1.0 + (params.variant == "diagonal_fisher"))


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="one step along the gradient difference of forget and retain set (influence)",
    touches=MOVES | {"bn_stats"}, reads=BOTH | {"validation"}, sums=True, check=_check,
)  # fmt: skip
