"""CF-k: fine-tune the last k blocks and the classifier on the retain set; earlier layers do not change.

Source: Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", 2022,
    arXiv:2201.06640 ("catastrophically forgetting the last k layers").
Differs: k counts blocks, not layers: a residual block is the smallest unit with one input. Cosine schedule
    and a weight decay of 5e-4 as in the other methods: quantizer steps are frozen, and under the decay of 0.1
    that is found elsewhere all weights would be quantized to 0. Batch-norm statistics of earlier layers are
    frozen; scales are frozen unless `scale_lr` is given.
"""

from dataclasses import dataclass
from typing import Final

import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.loop import Optimization
from qmu_edge.unlearn.last_blocks import last_blocks, submodules, train_end
from qmu_edge.unlearn.method import Method, Momentum, on_retain


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of CF-k.

    Attributes:
        k: Blocks that are trained: at most 8 in ResNet18, 17 in MobileNetV2.
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        scale_lr: Learning rate of the trained blocks' quantizer scales relative to `lr`; 0 freezes them.
    """

    k: Count = 2
    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    scale_lr: NotNegative = 0.0


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Train the last blocks of `model` on `data.retain`, in place.

    Raises:
        UnlearnError: A set is empty, there are fewer than k blocks, or the loss is not finite.
    """
    data.retain.require_some("retain")
    settings = Optimization.of(params)
    end = submodules(model, last_blocks(model, params.k))
    train_end(model, end, data, settings, label="cf_k", batch=params.batch, generator=generator)
    return model


def _check(model: Classifier, data: ForgetRetain, params: Params) -> None:
    last_blocks(model, params.k)


METHOD: Final = Method(
    run=run, params=Params, work=on_retain,
    summary="fine-tune the last k blocks on the retain set; the front keeps every code (CF-k)",
    reads=frozenset({"retain"}), check=_check,
)  # fmt: skip
