"""EU-k: re-initialise the last k blocks and the classifier and train them on the retain set.

The re-initialised layers hold nothing of the forget set; earlier layers still hold what they learned from it.

Source: Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", 2022,
    arXiv:2201.06640 ("exactly unlearning the last k layers").
Differs: k counts blocks, not layers: a residual block is the smallest unit with one input. New blocks get new
    quantizers: weight steps from the initial weights, activation steps from retain images, and both are
    learned, as in training. Cosine schedule and a weight decay of 5e-4 as in the other methods. Earlier
    layers keep weights, scales and batch-norm statistics.
"""

from dataclasses import dataclass
from typing import Final

import torch

from qmu_edge.models.build import build
from qmu_edge.models.calibration import GROUPS
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.fit import calibrate_on
from qmu_edge.train.loop import Optimization
from qmu_edge.unlearn.last_blocks import last_blocks, submodules, train_end
from qmu_edge.unlearn.method import Method, Momentum, on_retain


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of EU-k.

    Attributes:
        k: Blocks that are re-initialised: at most 8 in ResNet18, 17 in MobileNetV2.
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        scale_lr: Learning rate of the new quantizer scales relative to `lr`; 0 freezes them.
    """

    k: Count = 2
    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    scale_lr: NotNegative = 0.1


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Re-initialise the last blocks of `model` and train them on `data.retain`, in place.

    Raises:
        UnlearnError: A set is empty, there are fewer than k blocks, or the loss is not finite.
    """
    data.retain.require_some("retain")
    names = last_blocks(model, params.k)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    fresh = build(model.recipe, model.shape, seed, model.factory)
    fresh.to(data.retain.device)
    for name in names:
        model.set_submodule(name, fresh.get_submodule(name))
    end = submodules(model, names)
    calibrate_on(model, data.retain, params.batch, generator, data.augment, end)
    settings = Optimization.of(params)
    train_end(model, end, data, settings, label="eu_k", batch=params.batch, generator=generator)
    return model


def _check(model: Classifier, data: ForgetRetain, params: Params) -> None:
    last_blocks(model, params.k)


METHOD: Final = Method(
    run=run, params=Params, work=on_retain,
    summary="replace the last k blocks and train them anew on the retain set (EU-k)",
    touches=frozenset(GROUPS), reads=frozenset({"retain"}), check=_check,
)  # fmt: skip
