"""Relearn tests: how quickly a network relearns the forget set, and whether it does from retain images alone.

Knowledge that unlearning only suppressed returns after a few training steps, or even by training on retain
images alone. Results have to be compared with those of a retrained network, which never had that knowledge.

Source: relearn time: Tarun et al., "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023,
    arXiv:2111.08947; from retain data only: arXiv:2505.22310.
Differs: SGD at a fixed, small learning rate; accuracy is measured in evaluation mode, as exported.
"""

import copy

import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples, steps_per_epoch
from qmu_edge.train.fit import accuracy
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

LR = 1e-3


def relearn_epochs(
    model: Classifier,
    forget: Samples,
    target: float,
    generator: torch.Generator,
    *,
    limit: int = 20,
    images: int = 500,
    batch: int = 64,
) -> int:
    """Epochs on forget images until the network reaches `target` on them; `limit` when it does not.

    Args:
        model: Not changed.
        forget: The forget set.
        target: Accuracy to reach, a fraction.
        generator: On the CPU; draws the images of each epoch and their order.
        limit: Largest number of epochs.
        images: Forget images of one epoch.
        batch: Images per step.
    """
    student = copy.deepcopy(model)
    steps = limit * steps_per_epoch(min(images, len(forget)), batch)
    descent = Descent(student, _optimization(LR), max(1, steps), Progress())
    for epoch in range(limit):
        if accuracy(student, forget) >= target:
            return epoch
        some = torch.randperm(len(forget), generator=generator)[:images]
        _epoch(student, forget.take(some), descent, generator, batch)
    return limit


def relearned_from_retain(
    model: Classifier, retain: Samples, forget: Samples, generator: torch.Generator, *, batch: int = 64
) -> float:
    """Accuracy on forget images after one epoch on retain images alone; `model` is not changed."""
    student = copy.deepcopy(model)
    steps = steps_per_epoch(len(retain), batch)
    descent = Descent(student, _optimization(10 * LR), max(1, steps), Progress())
    _epoch(student, retain, descent, generator, batch)
    return accuracy(student, forget)


def _optimization(lr: float) -> Optimization:
    return Optimization(lr=lr, momentum=0.9, weight_decay=5e-4, schedule="constant")


def _epoch(
    model: Classifier, samples: Samples, descent: Descent, generator: torch.Generator, batch: int
) -> None:
    model.train()
    descent.epoch(cross_entropy(model), samples.batches(batch, generator))
    model.eval()
