"""SalUn: random labels, restricted to the weights that are salient for the forget set.

Variant "mask" ranks weights by the magnitude of the forget gradient and changes only the largest. Variant
"soft" soft-thresholds the change of every weight: one whose gradient does not exceed `beta` does not change.

Source: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
    Classification and Generation", ICLR 2024, arXiv:2310.12508.
Differs: ranked among weights of convolutions and of the classifier; batch-norm and biases are not masked,
    since gradients of other kinds of parameters have another magnitude. Masked weights are restored after
    each step; in the first released code momentum and weight decay changed them. The threshold of "soft" is
    lr * beta / (1 - momentum) per step, so that beta has the unit of a gradient; its default is ours.
    Saliency is measured without augmentation and with frozen batch-norm statistics. The learning rate follows
    a cosine, where theirs is constant over ten epochs. Quantizer scales are frozen.
Shapes: d weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Method, Momentum
from qmu_edge.unlearn.methods.random_label import random_labels
from qmu_edge.unlearn.relabelling import Loop, epoch, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of SalUn.

    Attributes:
        epochs: Passes over forget and retain set.
        lr: Highest learning rate of the cosine schedule; the papers search 5e-4..5e-2.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        loop: "mixed" or "sequential", see `relabelling.epoch`.
        variant: "mask" or "soft".
        share: Share of the weights that may change in "mask"; the papers search 0.1..0.9.
        beta: Threshold of "soft", in units of the gradient.
    """

    epochs: Count = 10
    lr: Positive = 0.013
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    loop: Loop = "mixed"
    variant: Literal["mask", "soft"] = "mask"
    share: Fraction = 0.5
    beta: Positive = 1e-4


def most_salient(saliency: Float[Tensor, " d"], share: float) -> Bool[Tensor, " d"]:
    """True for the `share` of entries with the largest magnitude.

    >>> most_salient(torch.tensor([0.1, -3.0, 2.0, 0.0]), 0.5)
    tensor([False,  True,  True, False])
    """
    mask = torch.zeros_like(saliency, dtype=torch.bool)
    mask[saliency.abs().topk(round(share * len(saliency))).indices] = True
    return mask


def soft_threshold(change: Float[Tensor, "*s"], threshold: float) -> Float[Tensor, "*s"]:
    """Soft thresholding: magnitudes reduced by `threshold`, and zero where they are no larger than that.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 1.5]), 1.0)
    tensor([-2.0000,  0.0000,  0.5000])
    """
    return change - change.clamp(-threshold, threshold)


def saliency(descent: Descent, weights: list[Tensor], forget: Samples, batch: int) -> Float[Tensor, " d"]:
    """Gradient of the summed loss of the forget set in `weights`, flattened and concatenated.

    Leaves the model in training mode; batch-norm statistics are frozen.
    """
    model = train_mode(descent.model, statistics=False)
    total = torch.zeros(sum(p.numel() for p in descent.parameters), device=forget.device)
    for b in forget.batches(batch):
        total += descent.gradient(cross_entropy(model, "sum"), b)
    wanted = {id(w) for w in weights}
    pairs = zip(descent.parameters, descent.views(total), strict=True)
    return torch.cat([view.flatten() for p, view in pairs if id(p) in wanted])


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    images = len(data.forget) + len(data.retain)
    settings = Optimization.of(params)
    steps = params.epochs * steps_of(params.loop, len(data.forget), len(data.retain), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("salun", params.epochs * images)
    descent.optimizer.register_step_post_hook(_restraint(descent, data.forget, params))
    for _ in range(params.epochs):
        labels = random_labels(len(data.forget), model.shape.classes, generator)
        epoch(
            descent, data, data.forget.relabelled(labels), (1.0, 1.0),
            loop=params.loop, batch=params.batch, generator=generator,
        )  # fmt: skip
    data.progress.finish()
    return model


def _restraint(descent: Descent, forget: Samples, params: Params) -> Callable[..., None]:
    """The hook that restricts the weights after each step of the optimizer."""
    weights = [p for p in descent.parameters if p.dim() > 1]
    start = [w.detach().clone() for w in weights]
    masks: list[Tensor] = []
    if params.variant == "mask":
        found = saliency(descent, weights, forget, params.batch)
        descent.require_finite()
        chunks = torch.split(most_salient(found, params.share), [w.numel() for w in weights])
        masks = [m.view(w.shape) for m, w in zip(chunks, weights, strict=True)]

    @torch.no_grad()
    def hold(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for weight, origin, mask in zip(weights, start, masks, strict=True):
            torch.where(mask, weight, origin, out=weight)

    @torch.no_grad()
    def pull(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        threshold = optimizer.param_groups[0]["lr"] * params.beta / (1.0 - params.momentum)
        for weight, origin in zip(weights, start, strict=True):
            weight.copy_(origin + soft_threshold(weight - origin, threshold))

    return hold if params.variant == "mask" else pull


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(params.epochs + (params.variant == "mask"), params.epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="random labels, changing only the weights that the forget set's gradient points at (SalUn)",
)  # fmt: skip
