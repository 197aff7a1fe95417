"""UNSIR: impair the network with error-maximising noise labelled as the forgotten class, then repair it.

The noise is optimised on the network alone: it maximises the loss of the class's label. Training on it with
that label overwrites what the network has learned of the class, and no image of the class is read
(zero-glance). Training on retain images repairs the network.

Source: Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023,
    arXiv:2111.08947.
Differs: the paper's text has 256 noise images of each class; the released notebook, which made its figures,
    uses three, 0.7 % of what it impairs with, as here. (256 are half of it where a class has few images.) The
    notebook gives all noise the label of the first class, here each its own; the penalty is the notebook's
    mean of squared norms. A tenth of the paper's learning rates: Adam's steps do not shrink with the
    gradient, and so long ones change most codes of the network. Noise is clipped to the pixel range and
    rounded to 8 bits, since the input's grid would clip the rest; it is optimised with batch-norm statistics
    and weights frozen. Repair augments images as training did. Scales are frozen.
Shapes: n images, m noise images of c channels, h x w pixels.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode
from qmu_edge.unlearn.method import Images, Method, classes_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of UNSIR; all but the learning rates are the released notebook's.

    Attributes:
        noise_images: Noise images of each class.
        noise_steps: Steps of Adam on the noise images.
        noise_lr: Learning rate of those steps, in units of the normalised input.
        penalty: Weight of the mean squared norm of the noise.
        copies: How often each noise image is shown while impairing.
        retain_per_class: Retain images of each class that are used at most.
        impair_lr, repair_lr: Learning rates of Adam.
        repair_epochs: Passes over the retain subset; low bit widths need more of them.
        batch: Images per step.
    """

    noise_images: Count = 3
    noise_steps: Count = 40
    noise_lr: Positive = 0.1
    penalty: NotNegative = 0.1
    copies: Count = 20
    retain_per_class: Count = 1000
    impair_lr: Positive = 0.002
    repair_lr: Positive = 0.002
    repair_epochs: Count = 1
    batch: Count = 256


def noise_loss(
    logits: Float[Tensor, "m k"], label: int, noise: Float[Tensor, "m c h w"], penalty: float
) -> Float[Tensor, ""]:
    """Loss that the noise minimises: negative cross-entropy of the label plus an L2 penalty on the noise.

    >>> noise_loss(torch.zeros(1, 4), 2, torch.full((1, 1, 2, 2), 0.5), 0.1) + torch.log(torch.tensor(4.0))
    tensor(0.1000)
    """
    labels = torch.full((len(logits),), label, device=logits.device)
    return penalty * noise.square().sum((1, 2, 3)).mean() - F.cross_entropy(logits, labels)


def class_noise(
    model: Classifier, label: int, shape: torch.Size, params: Params, generator: torch.Generator
) -> Float[Tensor, "m c h w"]:
    """Images 0..1 that maximise the network's loss for the class; the network does not change.

    Args:
        model: In training mode, with batch-norm statistics frozen.
        label: Label of the class.
        shape: (c, h, w).
        params: Number of images, steps, learning rate and penalty.
        generator: Draws the initial noise: standard normal, in units of the normalised input.
    """
    device = next(model.parameters()).device
    mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (model.shape.mean, model.shape.std))
    noise = torch.randn((params.noise_images, *shape), generator=generator).to(device)
    optimizer = torch.optim.Adam([noise], lr=params.noise_lr)
    for _ in range(params.noise_steps):
        noise.detach_().clamp_(-mean / std, (1.0 - mean) / std).requires_grad_()
        loss = noise_loss(model(noise * std + mean), label, noise, params.penalty)
        (noise.grad,) = torch.autograd.grad(loss, [noise])
        optimizer.step()
    return (noise.detach() * std + mean).clamp(0.0, 1.0)


def per_class(labels: Int64[Tensor, " n"], most: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
    """Positions of `most` images of each class drawn at random, or of all where a class has fewer.

    >>> per_class(torch.tensor([5, 0, 5, 5]), 3, torch.Generator()).sort().values
    tensor([0, 1, 2, 3])
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels.cpu()[order].argsort(stable=True)]
    counts = labels.cpu().bincount()
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[torch.arange(len(order)) - first < most]


def impairing(
    noise: Float[Tensor, "g m c h w"], classes: tuple[int, ...], retain: Samples, copies: int
) -> Samples:
    """`copies` of the noise of each of g classes with the label of that class, and the retain images."""
    pixels = (noise.flatten(0, 1) * 255.0).round().to(torch.uint8).to(retain.pool.device)
    pool = torch.cat([pixels, retain.pool[retain.index]])
    labels = torch.tensor(classes, device=retain.device).repeat_interleave(noise.shape[1])
    shown = torch.arange(len(pixels), device=pool.device).repeat(copies)
    kept = torch.arange(len(pixels), len(pool), device=pool.device)
    return Samples(
        pool, torch.cat([shown, kept]), torch.cat([labels.repeat(copies), retain.labels]), retain.device
    )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn the classes `data.classes` from `model`, in place.

    Raises:
        UnlearnError: The retain set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    retain = data.retain.take(per_class(data.retain.labels, params.retain_per_class, generator))
    train_mode(model, statistics=False)
    size = data.retain.pool.shape[1:]
    noise = torch.stack([class_noise(model, c, size, params, generator) for c in data.classes])
    mixed = impairing(noise, data.classes, retain, params.copies)
    _train(model, mixed, 1, params.impair_lr, Augment(), data, params, generator)
    _train(model, retain, params.repair_epochs, params.repair_lr, data.augment, data, params, generator)
    return model


def _train(
    model: Classifier,
    samples: Samples,
    epochs: int,
    lr: float,
    augment: Augment,
    data: ForgetRetain,
    params: Params,
    generator: torch.Generator,
) -> None:
    """Minimise the cross-entropy by Adam at a constant learning rate; batch-norm statistics are updated."""
    settings = Optimization(epochs=epochs, lr=lr, optimizer="adam", schedule="constant")
    steps = epochs * steps_per_epoch(len(samples), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("unsir", epochs * len(samples))
    model.train()
    for _ in range(epochs):
        descent.epoch(cross_entropy(model), samples.batches(params.batch, generator, augment))
    data.progress.finish()


def work(params: Params) -> Passes:
    """Impair and repair, without the noise; of large classes only `retain_per_class` images are used."""
    return Passes(0.0, 1.0 + params.repair_epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="noise in place of the forgotten class, then repair; opens no image of the class (UNSIR)",
    reads=frozenset[Images]({"retain"}), check=classes_only("unsir"),
)  # fmt: skip
