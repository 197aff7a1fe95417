"""One epoch over forget and retain images together, for the methods that relabel the forget set."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from qmu_edge.runtime.device import sent
from qmu_edge.train.batches import Augment, Batch, ForgetRetain, Pair, Samples, steps_per_epoch
from qmu_edge.train.loop import Descent, train_mode

Loop = Literal["mixed", "sequential"]


def possible(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], unretained: Sequence[int]
) -> Float[Tensor, "n k"]:
    """Logits with -inf for classes of which no image is retained, except each image's own label.

    Logits of an image do not change where no other class would remain.

    >>> possible(torch.ones(1, 4), torch.tensor([0]), (0, 2))
    tensor([[1., 1., -inf, 1.]])
    >>> possible(torch.ones(1, 2), torch.tensor([0]), (1,))
    tensor([[1., 1.]])
    """
    excluded = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    excluded[list(unretained)] = True
    other = ~F.one_hot(labels, logits.shape[1]).bool()
    some = (other & ~excluded).any(dim=1, keepdim=True)
    return logits.masked_fill(excluded & other & some, -torch.inf)


def steps_of(loop: Loop, forget: int, retain: int, batch: int) -> int:
    """Steps of one `epoch` over that many images.

    >>> steps_of("mixed", 10, 100, 64), steps_of("sequential", 10, 100, 64)
    (2, 3)
    """
    if loop == "mixed":
        return steps_per_epoch(forget + retain, batch)
    return steps_per_epoch(forget, batch) + steps_per_epoch(retain, batch)


def epoch(
    descent: Descent,
    data: ForgetRetain,
    forget: Samples,
    weights: tuple[float, float],
    *,
    loop: Loop,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train one epoch on the relabelled forget set and the retain set.

    Args:
        descent: The run; its model is put into training mode.
        data: Retain set and augmentation.
        forget: The forget set with its new labels.
        weights: Weights of the losses of forget and retain images.
        loop: "mixed": one shuffled pass over both sets; "sequential": a pass over the forget set, then one
            over the retain set, which undoes some of the forgetting.
        batch: Images per step.
        generator: Draws order and augmentation.
    """
    model = descent.model.train()
    each = torch.tensor(weights, device=forget.device)
    if loop == "mixed":
        both = forget + data.retain
        counts = torch.tensor([len(forget), len(data.retain)], device=both.device)
        loss = weighted_loss(model, each.repeat_interleave(counts))
        descent.epoch(loss, both.batches(batch, generator, data.augment))
        return
    for samples, weight in zip((forget, data.retain), each, strict=True):
        train_mode(model, statistics=len(samples) > 1)  # the variance of one value is undefined
        loss = weighted_loss(model, weight.expand(len(samples)))
        descent.epoch(loss, samples.batches(batch, generator, data.augment))


def weighted_loss(model: nn.Module, weights: Float[Tensor, " N"]) -> Callable[[Batch], Tensor]:
    """The weighted mean of the cross-entropy over a batch, as a loss function.

    Args:
        model: Computes the logits.
        weights: One for each image of the set that the batches come from.
    """

    def loss(batch: Batch) -> Tensor:
        losses = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
        return (weights[sent(batch.positions, weights.device)] * losses).mean()

    return loss


def pair_steps(first: int, second: int, sizes: tuple[int, int]) -> int:
    """Pairs of batches in one pass over the set with more batches.

    >>> pair_steps(10, 100, (8, 8)), pair_steps(10, 100, (1, 99))
    (13, 10)
    """
    return max(steps_per_epoch(n, size) for n, size in zip((first, second), sizes, strict=True))


def pairs(
    first: Samples, second: Samples, sizes: tuple[int, int], generator: torch.Generator, augment: Augment
) -> Iterator[Pair]:
    """Pairs of batches, one of each set; the set with fewer batches is repeated.

    Args:
        first: One set, not empty.
        second: The other one, not empty.
        sizes: Images per batch of each.
        generator: Draws order and augmentation.
        augment: Augmentation of the images of both sets.
    """
    streams = (s.forever(size, generator, augment) for s, size in zip((first, second), sizes, strict=True))
    return islice(map(Pair, *streams), pair_steps(len(first), len(second), sizes))
