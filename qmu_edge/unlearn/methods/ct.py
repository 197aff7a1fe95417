"""CT: transpose every convolution kernel, then fine-tune on the retain set.

Swapping height and width of a kernel destroys orientation-dependent features and keeps the distribution of
weights: each output channel has the same integer codes at other positions, under the same step.

Source: fifth of the NeurIPS 2023 unlearning challenge, as restated in Cadet et al., "Deep Unlearn:
    Benchmarking Machine Unlearning for Image Classification", arXiv:2410.01276.
Differs: a network most of whose kernels are 1x1, which transposition does not change, is refused.
    Augmentation and schedule are those of `finetune`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.unlearn.method import Method, Momentum, on_retain
from qmu_edge.unlearn.methods import finetune


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of CT.

    Attributes:
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
    """

    epochs: Count = 3
    lr: Positive = 1e-3
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 64


def kernels(model: Classifier) -> Iterator[Tensor]:
    """Weights (out, in, h, w) of the convolutions of `model`."""
    for _, layer in weight_layers(model):
        if isinstance(layer, nn.Conv2d):
            yield layer.weight


def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """Refuse a network with too few kernels that transposition changes.

    Raises:
        UnlearnError: More than half of the convolutions are 1x1.
    """
    single = [kernel.shape[2:] == (1, 1) for kernel in kernels(model)]
    if 2 * sum(single) > len(single):
        raise UnlearnError(
            f"method ct swaps the axes of convolution kernels, and {sum(single)} of the {len(single)} "
            f"convolutions of {model.recipe.architecture} are 1x1; take another method"
        )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Transpose the kernels of `model` and train it on `data.retain`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    with torch.no_grad():
        for kernel in kernels(model):
            kernel.copy_(kernel.transpose(2, 3).clone())
    again = finetune.Params(**asdict(params))
    return finetune.run(model, data, again, generator)


METHOD: Final = Method(
    run=run, params=Params, work=on_retain,
    summary="transpose all convolution kernels, then train on the retain set; not where most kernels are 1x1",
    reads=frozenset({"retain"}), check=check,
)  # fmt: skip
