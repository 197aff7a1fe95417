"""Changes of the exported integer codes by unlearning: share of changed codes and mean distance, by layer.

An update that is smaller than a quantization step vanishes on export. A method that changes no more codes
than plain fine-tuning acts on the fractional part of latent weights, or not at all.

Shapes: one tensor of codes per layer, in the shape of its weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier


@dataclass(frozen=True, slots=True)
class CodeChange:
    """Change of the integer codes of one layer, or of a network.

    Attributes:
        flipped: Share of codes that differ.
        distance: Mean absolute difference, in codes.
        saturated: Share of codes that are the largest one of the layer afterwards.
        weights: Number of codes.
    """

    flipped: float
    distance: float
    saturated: float
    weights: int


def integer_codes(model: Classifier) -> dict[str, Int[Tensor, "..."]]:
    """Integer codes of every quantized weight, by the name of its layer; int8, on the host."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = {
            name: layer.quant_weight().int(float_datatype=False).to(torch.int8).cpu()
            for name, layer in weight_layers(model)
            if layer.weight_quant.is_quant_enabled
        }
    model.train(was_training)
    return found


def change(before: Int[Tensor, "*s"], after: Int[Tensor, "*s"]) -> CodeChange:
    """Statistics of the change of codes.

    >>> change(torch.tensor([0, 1, -2, 7]), torch.tensor([0, 3, -2, 7]))
    CodeChange(flipped=0.25, distance=0.5, saturated=0.25, weights=4)
    """
    moved = (after.int() - before.int()).abs()
    ends = after == after.max()
    return CodeChange(
        float((moved > 0).double().mean()), float(moved.double().mean()), float(ends.double().mean()),
        moved.numel(),
    )  # fmt: skip


def code_changes(
    before: Mapping[str, Int[Tensor, "..."]], after: Mapping[str, Int[Tensor, "..."]]
) -> dict[str, CodeChange]:
    """Change of every layer, and of the whole network under the name "all"."""
    layers = {name: change(codes, after[name]) for name, codes in before.items()}
    whole = (torch.cat([codes[name].flatten() for name in before]) for codes in (before, after))
    return {**layers, "all": change(*whole)}
