"""Boundary expand: train forget images towards an additional output class, then remove that output.

Forget images move into the region of the additional class; once it is removed, they are assigned to the next
likeliest class. Needs no retain data; designed for whole classes, serves single samples as well.

Source: Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting
    the Decision Boundary", CVPR 2023, arXiv:2303.11570.
Differs: the extra output is a float layer beside the quantized head, on the same features, so that the head
    keeps its shape and its grid; it starts at zero. Batch-norm statistics and scales are frozen; no weight
    decay.
Shapes: n images, k classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Positive
from qmu_edge.train.batches import ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import TRAINED, Method, Momentum, on_forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of boundary expand.

    Attributes:
        epochs: Passes over the forget set.
        lr: Learning rate, constant; the papers search 1e-6..1e-4 in float networks, which changes few
            integer codes at low bit widths.
        momentum: Of SGD.
        batch: Images per step.
    """

    epochs: Count = 10
    lr: Positive = 5e-3
    momentum: Momentum = 0.9
    batch: Count = 128


def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """Refuse a network whose last layer is no linear one.

    Raises:
        UnlearnError: It is a convolution.
    """
    if not isinstance(model.head, nn.Linear):
        raise UnlearnError(
            f"method boundary_expand widens a linear classifier; that of {model.recipe.architecture} is a "
            f"{type(model.head).__name__}; take another method"
        )


@contextmanager
def extra_output(model: Classifier) -> Iterator[None]:
    """Give `model` logits (n, k + 1) inside the context, and remove the additional output at its end."""
    head: Any = model.head
    extra = nn.Linear(head.in_features, 1, device=head.weight.device)
    nn.init.zeros_(extra.weight)
    nn.init.zeros_(extra.bias)

    def widen(_: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        return torch.cat([logits, extra(inputs[0])], 1)

    model.add_module("extra", extra)  # its parameters are trained with the others
    hook = head.register_forward_hook(widen)
    try:
        yield
    finally:
        hook.remove()
        del model.extra


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: The forget set is empty, or the loss is not finite.
    """
    settings = Optimization.of(params, schedule="constant")
    steps = params.epochs * steps_per_epoch(len(data.forget), params.batch)
    forget = data.forget.relabelled(torch.full_like(data.forget.labels, model.shape.classes))
    data.progress.start("boundary_expand", params.epochs * len(forget))
    with extra_output(model):
        descent = Descent(model, settings, steps, data.progress)
        train_mode(model, statistics=False)
        for _ in range(params.epochs):
            descent.epoch(cross_entropy(model), forget.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


METHOD: Final = Method(
    run=run, params=Params, work=on_forget,
    summary="forget images to one more output, which is then removed; needs no retain data",
    touches=TRAINED - {"bn_stats"}, reads=frozenset({"forget"}), check=check,
)  # fmt: skip
