"""l1-sparse: fine-tune on the retain set with an L1 penalty on the weights that decays to zero.

A sparser network has less capacity left for what only the forget set needed. The penalty falls linearly from
`gamma`, so that the last epochs restore accuracy.

Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv:2304.04934.
Differs: only weights of convolutions and of the classifier are penalised; the released code penalises all
    parameters, which in a quantized network shrinks the steps as well, and so narrows the clipping range of
    every layer. Quantizer scales are frozen.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.method import Method, Momentum, on_retain


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of l1-sparse.

    Attributes:
        epochs: Passes over the retain set.
        lr: Highest learning rate of the cosine schedule; the papers search 1e-3..1e-1.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        gamma: Weight of the penalty in the first epoch; the papers search 1e-6..1e-4.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    gamma: NotNegative = 1e-5


def penalty_weight(gamma: float, epoch: int, epochs: int) -> float:
    """Weight of the penalty: `gamma` in epoch 0, falling linearly.

    >>> [penalty_weight(1.0, epoch, 4) for epoch in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return gamma * (1.0 - epoch / epochs)


def l1(weights: list[Tensor]) -> Float[Tensor, ""]:
    """L1 norm of all weights together.

    >>> l1([torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5]])])
    tensor(3.5000)
    """
    return torch.stack(torch._foreach_norm(weights, 1)).sum()


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Train `model` on `data.retain` under the penalty, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    steps = params.epochs * steps_per_epoch(len(data.retain), params.batch)
    descent = Descent(model, Optimization.of(params), steps, data.progress)
    weights = [p for p in descent.parameters if p.dim() > 1]

    def loss(gamma: float, b: Batch) -> Tensor:
        return F.cross_entropy(model(b.images), b.labels) + gamma * l1(weights)

    data.progress.start("l1_sparse", params.epochs * len(data.retain))
    model.train()
    for epoch in range(params.epochs):
        gamma = penalty_weight(params.gamma, epoch, params.epochs)
        descent.epoch(partial(loss, gamma), data.retain.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_retain,
    summary="keep training on the retain set under a fading L1 penalty on weights (l1-sparse)",
    reads=frozenset({"retain"}),
)  # fmt: skip
