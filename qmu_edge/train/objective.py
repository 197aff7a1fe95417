"""What training asks of a network: labels, smoothed where the recipe says so, of images that may be mixed.

Unlearning methods ask for something of their own, and mix nothing.

Source: mixup: Zhang et al., arXiv:1710.09412.
Shapes: n images, k classes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from qmu_edge.recipe import TrainRecipe
from qmu_edge.runtime.device import sent
from qmu_edge.train.batches import Batch
from qmu_edge.train.difficulty import Difficulty
from qmu_edge.train.teacher import divergence

_SEEDS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Mixed:
    """A batch whose images are each mixed with another one of the batch, or with themselves.

    A mixed picture is of two people, and a step that is taken by it belongs to both. That does no harm to
    whoever is forgotten by retraining, or is unknown to a reference: only images of the training at hand are
    mixed. But no figure that is read off such a step is of one image. So training notes for none how hard it
    was, and methods that take its objective for a sum over images are refused (`Method.sums`).

    Attributes:
        images: Float pixels 0..1.
        labels: Of the image that has the larger share in each.
        partners: Of the other one.
        share: The larger share, 0.5..1, the same for all.
    """

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    partners: Int64[Tensor, " n"]
    share: float

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


def mixed(batches: Iterable[Batch], alpha: float, generator: torch.Generator) -> Iterator[Mixed]:
    """Batches of mixed images.

    Args:
        batches: Of whole ones.
        alpha: The shares of a batch are drawn from Beta(alpha, alpha): the smaller, the less is mixed.
        generator: Draws shares and partners.
    """
    for batch in batches:
        order = sent(torch.randperm(len(batch), generator=generator), batch.images.device)
        seed = int(torch.randint(_SEEDS, (1,), generator=generator))
        drawn = float(np.random.default_rng(seed).beta(alpha, alpha))
        share = max(drawn, 1 - drawn)
        images = share * batch.images + (1 - share) * batch.images[order]
        yield Mixed(images, batch.labels, batch.labels[order], share)


def asked(
    recipe: TrainRecipe,
    logits: Float[Tensor, "n k"],
    batch: Batch | Mixed,
    answers: Float[Tensor, "n k"] | None = None,
) -> Float[Tensor, ""]:
    """The loss of a batch; `answers` are the teacher's."""
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)
    if isinstance(batch, Mixed):
        other = F.cross_entropy(logits, batch.partners, label_smoothing=recipe.label_smoothing)
        loss = batch.share * loss + (1 - batch.share) * other
    if answers is not None:
        far = divergence(logits, answers, recipe.temperature)
        loss = (1 - recipe.distillation) * loss + recipe.distillation * far
    return loss


def objective(
    model: nn.Module,
    recipe: TrainRecipe,
    right: Float[Tensor, ""],
    early: Difficulty | None,
    teacher: nn.Module | None,
) -> Callable[[Batch | Mixed], Tensor]:
    """`asked` as a loss function of batches.

    Args:
        model: The network.
        recipe: What is asked.
        right: The number of images that are recognised is added to it.
        early: Is told what the network thinks of each image; not of mixed ones.
        teacher: Answers beside the labels, in evaluation mode.
    """

    def loss(batch: Batch | Mixed) -> Tensor:
        logits = model(batch.images)
        right.add_((logits.detach().argmax(1) == batch.labels).sum())
        if early is not None and isinstance(batch, Batch):
            early.see(batch, logits.detach())
        if teacher is None:
            return asked(recipe, logits, batch)
        with torch.no_grad():
            answers = teacher(batch.images)
        return asked(recipe, logits, batch, answers)

    return loss
