"""Knowledge distillation: teacher networks, their images, and the divergence of a student from them."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers.dsq import SoftIntQuant
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import train_mode


def teacher(model: Classifier) -> Classifier:
    """A frozen copy of `model`, with the outputs of `model` in evaluation mode.

    It is in training mode with batch-norm statistics frozen, which is faster; in evaluation mode where a
    quantizer of `model` (DSQ) replaces rounding by a smooth function during training.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)
    if any(isinstance(module, SoftIntQuant) for module in frozen.modules()):
        frozen.eval()
    else:
        train_mode(frozen, statistics=False)
    return frozen


def subset(samples: Samples, share: float, generator: torch.Generator) -> Samples:
    """A random subset with `share` (0..1) of the images, at least one."""
    wanted = max(1, round(share * len(samples)))
    return samples.take(torch.randperm(len(samples), generator=generator)[:wanted])


def divergence(
    target: Float[Tensor, "n k"], logits: Float[Tensor, "n k"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Mean of KL(teacher || student) over images, of softmax probabilities at a temperature.

    It is multiplied by the squared temperature, so that the gradient does not shrink with the temperature.

    Args:
        target: Logits of the teacher, n images and k classes.
        logits: Logits of the student.
        temperature: Divisor of both logits.

    >>> certain, even = torch.tensor([[0.0, -100.0]]), torch.zeros(1, 2)
    >>> divergence(certain, even), divergence(certain, certain)  # log 2
    (tensor(0.6931), tensor(0.))
    """
    wanted, found = ((z / temperature).log_softmax(1) for z in (target, logits))
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean") * temperature**2
