"""The float teacher of a run: the same network without quantizers, whose answers are asked for beside labels.

A teacher knows what it was trained on. So each run trains its own, first, on the images of the run alone, by
the same recipe, and drops it at the end: retraining never asks one that saw the forgotten images, nor does a
reference. It is stored nowhere but in the state of an unfinished run, and goes as that goes.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
Shapes: n images, k classes.
"""

from typing import Final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.build import build
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier

TEACHER: Final = "teacher."  # what its tensors are called in the state of a run


def divergence(
    logits: Float[Tensor, "n k"], answers: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, ""]:
    """How far the network is from the teacher: their Kullback-Leibler divergence, mean over images.

    Both are softened by the temperature, whose square keeps gradients as large as those of labels.

    >>> import torch
    >>> sure, unsure = torch.tensor([[2.1972, 0.0]]), torch.zeros(1, 2)  # 3/4 and 1/4, where softened by 2
    >>> round(float(divergence(unsure, sure, 2.0)), 4)  # 4 x (3/4 log 3/2 + 1/4 log 1/2)
    0.5232
    >>> float(divergence(sure, sure, 2.0))
    0.0
    """
    ours, theirs = ((x.float() / temperature).log_softmax(1) for x in (logits, answers))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def untaught(model: Classifier, seed: int) -> Classifier:
    """The teacher of a network before its own training, on the device of the network."""
    recipe = model.recipe.unquantized().model_copy(update={"weight_bits": 8})
    teacher = build(recipe, model.shape, seed, model.factory, model.start)
    for _, layer in weight_layers(teacher):
        layer.weight_quant.disable_quant = True
    return teacher.to(next(model.parameters()).device)


def state_of(teacher: Classifier) -> dict[str, Tensor]:
    """What a run that goes on needs of its teacher."""
    return {f"{TEACHER}{name}": value.contiguous() for name, value in teacher.state_dict().items()}
