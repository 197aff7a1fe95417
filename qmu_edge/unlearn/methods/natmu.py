"""NatMU: train on hybrids of forget images and retain images of the most probable wrong classes.

Each forget image is blended with a retain image of each of the four classes that the network finds most
probable beside the true one, and labelled as that class, so that the image contains features of its new
label. The blending weight is a linear ramp over rows or columns, largest in the middle or at the edges.

Source: He et al., "Towards Natural Machine Unlearning", TPAMI 2025, arXiv:2405.15495.
Differs: only classes with retain images, so with few classes fewer hybrids; the partner of each hybrid is
    drawn independently, where the released code uses no retain image twice and changes labels to make that
    possible; one algorithm for samples and whole classes; every batch has the same share of hybrids, and they
    are augmented like retain images. Batch-norm statistics are updated on both.
Shapes: n forget images, r retain images, k classes, m hybrids of each image.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization, cross_entropy
from qmu_edge.unlearn.method import Method
from qmu_edge.unlearn.relabelling import pair_steps, pairs

Shift = Annotated[float, Field(ge=-1.0, le=1.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of NatMU.

    Attributes:
        epochs: Passes over hybrids and retain set.
        lr: Highest learning rate of the cosine schedule of AdamW.
        weight_decay: On convolution and classifier weights.
        batch: Images per step.
        hybrids: Hybrids of each forget image, at most; each has another class and another ramp.
        shift: Added to the weight of the forget image in every pixel of a hybrid.
    """

    epochs: Count = 5
    lr: Positive = 1.1e-3
    weight_decay: NotNegative = 5e-4
    batch: Count = 128
    hybrids: Annotated[int, Field(ge=1, le=4)] = 4
    shift: Shift = -0.03


def check(model: Classifier, data: ForgetRetain, params: Any) -> None:
    """Refuse a retain set without an image of another class for some forget image.

    Raises:
        UnlearnError: The retain set is empty, or has a single class, which is that of a forget image.
    """
    data.retain.require_some("retain")
    classes = torch.unique(data.retain.labels)
    if len(classes) == 1 and bool((data.forget.labels == classes).any()):
        raise UnlearnError(
            "method natmu blends a forget image with retain images of other classes, and all retain "
            f"images are of class {int(classes)}"
        )


def ramps(height: int, width: int, shift: float) -> Float[Tensor, "4 h w"]:
    """Weight of the forget image in each pixel, as four ramps.

    They peak in the middle rows, the middle columns, the edge rows and the edge columns.

    >>> ramps(4, 1, 0.0)[0::2, :, 0]
    tensor([[0.0000, 0.5000, 0.5000, 0.0000],
            [0.5000, 0.0000, 0.0000, 0.5000]])
    """

    def middle(length: int) -> Tensor:
        place = torch.arange(length)
        return torch.minimum(place, length - 1 - place) / (length / 2)

    inside = torch.stack(torch.meshgrid(middle(height), middle(width), indexing="ij"))
    edges = inside.amax((1, 2), keepdim=True) - inside
    return (torch.cat([inside, edges]) + shift).clamp(0.0, 1.0)


def likeliest(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], available: Int64[Tensor, " a"], most: int
) -> Int64[Tensor, "n m"]:
    """The `most` likeliest classes of each image among `available` ones, without its label.

    Where fewer than `most` remain, the number of classes m is smaller, and the same for all images.

    >>> likeliest(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([1]), torch.tensor([0, 1]), 4)
    tensor([[0]])
    """
    allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
    allowed[available] = True
    shut = ~allowed | F.one_hot(labels, logits.shape[1]).bool()
    choices = int((~shut).sum(1).min())
    return logits.masked_fill(shut, -torch.inf).topk(min(most, choices)).indices


def partners(
    wanted: Int64[Tensor, "*w"], labels: Int64[Tensor, " r"], generator: torch.Generator
) -> Int64[Tensor, "*w"]:
    """For each wanted label, a random position in `labels` that holds it; every wanted label occurs there."""
    order = labels.argsort(stable=True)
    counts = labels.bincount(minlength=int(wanted.max()) + 1)
    first = counts.cumsum(0) - counts
    # A float32 times a count can round up to the count itself; a float64 below 1 does not.
    drawn = (torch.rand(wanted.shape, generator=generator, dtype=torch.float64) * counts[wanted]).long()
    return order[first[wanted] + drawn]


def hybrids(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Samples:
    """All hybrids of the forget set with the labels of their partners, on the device of the images."""
    forget, retain = data.forget, data.retain
    known = retain.labels.cpu()
    classes = likeliest(predict(model, forget), forget.labels.cpu(), torch.unique(known), params.hybrids)
    chosen = partners(classes, known, generator)
    height, width = forget.pool.shape[2:]
    masks = ramps(height, width, params.shift).to(forget.pool.device)
    ours = forget.pool[forget.index].float()
    blended = []
    for number in range(classes.shape[1]):
        theirs = retain.take(chosen[:, number])
        blend = torch.lerp(theirs.pool[theirs.index].float(), ours, masks[number])
        blended.append(blend.round().to(torch.uint8))
    pool = torch.cat(blended)
    index = torch.arange(len(pool), device=pool.device)
    return Samples(pool, index, classes.t().flatten().to(forget.device), forget.device)


def shares(batch: int, hybrids: int, retain: int) -> tuple[int, int]:
    """Hybrids and retain images in each batch, at least one of each.

    >>> shares(128, 400, 1200), shares(128, 4, 100_000)
    ((32, 96), (1, 127))
    """
    ours = max(1, round(batch * hybrids / (hybrids + retain)))
    return ours, max(1, batch - ours)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: The loss is not finite.
    """
    made = hybrids(model, data, params, generator)
    images = len(made) + len(data.retain)
    sizes = shares(params.batch, len(made), len(data.retain))
    settings = Optimization.of(params, optimizer="adamw")
    steps = params.epochs * pair_steps(len(made), len(data.retain), sizes)
    descent = Descent(model, settings, steps, data.progress)
    data.progress.start("natmu", params.epochs * images)
    for _ in range(params.epochs):
        model.train()
        batches = pairs(made, data.retain, sizes, generator, data.augment)
        descent.epoch(cross_entropy(model), batches)
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Images that `run` takes through the network."""
    return Passes(FORWARD_ONLY + params.hybrids * params.epochs, params.epochs)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="hybrids of forget images with retain images of similar classes, labelled as those (NatMU)",
    check=check,
)  # fmt: skip
