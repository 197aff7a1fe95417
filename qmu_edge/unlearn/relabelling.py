"""One epoch over forget and retain images together, for the methods that relabel the forget set."""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from qmu_edge.data import Batch, ForgetRetain, Samples
from qmu_edge.descent import Descent

Loop = Literal["mixed", "sequential"]


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
        forget: The forget set under its new labels.
        weights: Of the loss of forget and of retain images.
        loop: "mixed": one shuffled pass over both; "sequential": all of forget, then all of retain,
            which ends on retain data and undoes some of the forgetting.
        batch: Images per step.
        generator: Draws order and augmentation.
    """
    model = descent.model.train()
    n = len(forget)
    both = forget + data.retain
    each = torch.full((len(both),), weights[1], device=both.device)
    each[:n] = weights[0]

    def passes() -> Iterator[tuple[Batch, torch.Tensor]]:
        if loop == "mixed":
            for b in both.batches(batch, generator, data.augment):
                yield b, each[b.positions.to(both.device)]
            return
        for samples, offset in ((forget, 0), (data.retain, n)):
            for b in samples.batches(batch, generator, data.augment):
                yield b, each[b.positions.to(both.device) + offset]

    for b, weight in passes():
        descent.step(
            lambda b=b, w=weight: (w * F.cross_entropy(model(b.images), b.labels, reduction="none")).mean(),  # type: ignore[misc]
            len(b.labels),
        )
    descent.require_finite()
