"""FiCABU-style: shrink the weights that matter mostly to the forget set, from the last block to the first.

It dampens as `ssd` does, but stops as soon as the forget set is as unknown as unseen images: where the last
blocks suffice, the front keeps every code, and with it what all classes share. The nearer a block lies to the
input, the more important to the forget set a weight has to be, and the less it shrinks.

Source: Cho et al., "FiCABU: A Fisher-Based, Context-Adaptive Machine Unlearning Processor for Edge AI", DATE
    2026, arXiv:2511.05605.
Differs: after the paper's abstract and introduction: by how much dampening fades towards the front is ours.
    Blocks are stages of the network as in `cf_k`; importances are those of `ssd`, with what differs there,
    and are measured for all blocks at once, where the paper's processor measures those that it edits. It
    stops at the accuracy of an unseen image: on validation images, and 0 for a class that is forgotten whole,
    where the paper takes that of guessing.
Shapes: u blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Positive
from qmu_edge.request.split import Passes
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.fit import accuracy
from qmu_edge.unlearn.method import BOTH, Method, validation_for_samples
from qmu_edge.unlearn.methods import ssd


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of the dampening from back to front.

    Attributes:
        threshold: Ratio of importances, forget set to all images, above which a weight of the last block is
            chosen; smaller forgets more. Not the paper's alpha, see `ssd`.
        strength: Factor on the ratio that a weight of the last block is multiplied by; smaller forgets more.
        front: Both for the first block, relative to the last; geometric in between.
        batch: Images per gradient.
    """

    threshold: Positive = 50.0
    strength: Positive = 1.0
    front: Positive = 10.0
    batch: Count = 64


def blocks(names: Sequence[str]) -> list[list[int]]:
    """Positions of the parameters of each block, the last block first; what is outside blocks is one each.

    >>> blocks(["stem.weight", "blocks.0.first.weight", "blocks.0.second.weight", "head.weight"])
    [[3], [1, 2], [0]]
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for position, name in enumerate(names):
        parts = name.split(".")
        found.setdefault(tuple(parts[: 2 if parts[0] == "blocks" else 1]), []).append(position)
    return [*reversed(found.values())]


def faded(params: Params, number: int, count: int) -> ssd.Params:
    """Dampening of block `number` of `count`, counted from the last one.

    >>> [faded(Params(threshold=2.0, front=9.0), n, 3).threshold for n in range(3)]
    [2.0, 6.0, 18.0]
    """
    factor = params.front ** (number / max(1, count - 1))
    return ssd.Params(
        threshold=params.threshold * factor, strength=params.strength * factor, batch=params.batch
    )


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, the loss is not finite, or no weight is chosen.
    """
    data.retain.require_some("retain")
    unseen = 0.0 if data.classes else accuracy(model, data.validation)
    descent, f, e = ssd.importances(model, data, faded(params, 0, 1), generator)
    forget, everything = descent.views(f), descent.views(e)
    order = blocks([span.name for span in descent.spans])
    number = depth = 0
    for depth, positions in enumerate(order):
        each = faded(params, depth, len(order))
        for at in positions:
            factors, chosen = ssd.dampening(forget[at], everything[at], each)
            with torch.no_grad():
                descent.parameters[at].mul_(factors)
            number += int(chosen.sum())
        if number and accuracy(model, data.forget) <= unseen:
            break
    ssd.require_chosen(number, "ficabu", params.threshold)
    untouched = f"{len(order) - depth - 1} of {len(order)} blocks untouched"
    data.progress.finish(f"{number:,} of {len(f):,} weights dampened, {untouched}")
    return model


def work(params: Params) -> Passes:
    """As ssd, and about three looks at the forget set, one after each block."""
    return Passes(3.0, 1.0)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="shrinks weights as ssd, the last blocks first, until the forget set is unknown (FiCABU-style)",
    touches=frozenset({"weights", "head"}), reads=BOTH | {"validation"}, check=validation_for_samples,
)  # fmt: skip
