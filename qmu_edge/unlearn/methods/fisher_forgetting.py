"""Fisher forgetting: add Gaussian noise to weights, with a variance inverse to their Fisher information.

Weights with little information about the retain set may encode the forget set; noise destroys that. Nothing
is trained, and no forget image is read.

Source: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020,
    arXiv:1911.04933, in the form of its batch-wise variant that the SalUn family of papers compares with.
Differs: noise on weights of convolutions and of the classifier only; on scales, batch-norms and biases the
    released code adds ten times as much, which destroys a quantizer. The Fisher information takes one
    backward pass per batch instead of one per class (see `fisher`), and the variance is averaged over all
    inputs of an output channel, whose weights share a quantizer step. The standard deviation is at most `cap`
    of that step: more would replace codes by random ones; float layers have no step and no cap. In a request
    for classes their rows of the classifier are re-initialised, and their biases become 0, on which the
    released code puts noise as well; it recognises such a request by its size.
Limit: saturated weights have no gradient, and count as unimportant.
Shapes: o output channels.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.calibration import train_only, weight_layers
from qmu_edge.models.deploy import weight_scale
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.fisher import diagonal_fisher
from qmu_edge.unlearn.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of Fisher forgetting.

    Attributes:
        alpha: Variance of the noise where the Fisher information is 1; the papers search 1e-9..1e-6, but
            square gradients of whole batches towards one class: their information is smaller than this one.
        cap: Largest standard deviation of the noise, in quantizer steps.
        batch: Images per squared gradient.
        head_gain: Factor on the inverse Fisher of the classifier, as released.
        smallest: Added to the Fisher before it is inverted, as released.
        largest: Largest inverse Fisher, as released.
        row_deviation: Standard deviation of the re-initialised weights of a forgotten class, as released: a
            variance of 1e-4, times ten in the classifier.
    """

    alpha: Positive = 1e-7
    cap: Positive = 0.5
    batch: Count = 32
    head_gain: Positive = 10.0
    smallest: Positive = 1e-8
    largest: Positive = 1e3
    row_deviation: NotNegative = 0.0316


def noise_variance(fisher: Float[Tensor, "o ..."], params: Params, gain: float) -> Float[Tensor, " o"]:
    """Variance of the noise on each output channel; `gain` is a factor on the inverse Fisher.

    >>> noise_variance(torch.tensor([[1.0, 0.5], [0.0, 0.0]]), Params(alpha=2.0), 1.0)
    tensor([   3., 2000.])
    """
    each = params.alpha * (gain / (fisher + params.smallest)).clamp_max(params.largest)
    return each.flatten(1).mean(1)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Add noise to the weights of `model`, in place.

    Raises:
        UnlearnError: A set is empty, or a gradient is not finite.
    """
    data.retain.require_some("retain")
    train_only(model, {"weights", "head"})
    descent = Descent(model, Optimization(), 1, data.progress)
    data.progress.start("fisher_forgetting", len(data.retain))
    train_mode(model, statistics=False)
    fisher = diagonal_fisher(
        descent, data.retain, classes=model.shape.classes, batch=params.batch,
        augment=data.augment, generator=generator,
    )  # fmt: skip
    descent.require_finite()
    views = {s.name: v for s, v in zip(descent.spans, descent.views(fisher), strict=True)}
    for name, layer in weight_layers(model):
        head = name == "head"
        variance = noise_variance(views[f"{name}.weight"], params, params.head_gain if head else 1.0)
        _disturb(layer, variance.sqrt(), params, data.classes if head else (), generator)
    data.progress.finish()
    return model


@torch.no_grad()
def _disturb(
    layer: Any, deviation: Float[Tensor, " o"], params: Params, anew: tuple[int, ...],
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Add noise to the weight of a layer; the rows `anew` are re-initialised, without a bias."""
    weight: Tensor = layer.weight
    if layer.weight_quant.is_quant_enabled:
        deviation = torch.minimum(deviation, params.cap * weight_scale(layer))
    if anew:
        weight[list(anew)] = 0.0
        if layer.bias is not None:
            layer.bias[list(anew)] = 0.0
    deviation[list(anew)] = params.row_deviation
    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
    weight.add_(noise * deviation.view(-1, *(1,) * (weight.dim() - 1)))


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(0.0, 1.0)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="noise on the weights that the retain set needs least (Fisher forgetting)",
    touches=frozenset({"weights", "head"}), reads=frozenset({"retain"}),
)  # fmt: skip
