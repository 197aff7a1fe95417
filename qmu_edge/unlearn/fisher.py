"""The diagonal of the Fisher information matrix, a measure of the importance of each parameter.

It is the mean over images of the expected squared gradient of log p(class), where the class is distributed as
the network predicts. The gradient of log p(class) in the logits has mean zero and covariance diag(p) - p p^T.
Each image gets a random vector with that mean and covariance. Cross terms between images vanish in
expectation, so the squared gradient of a batch is unbiased, and no class needs a backward pass of its own.

Source: the network's own classes and not the labels: Martens, "New Insights and Perspectives on the Natural
    Gradient Method", JMLR 2020, arXiv:1412.1193.
Differs: one random vector per image in place of a sum over classes or of gradients per sample, for which
    the quantizers' autograd functions have no rule (torch.func.vmap refuses them).
Shapes: n images, k classes, d parameters.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.loop import Descent


def softmax_noise(logits: Float[Tensor, "n k"], signs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """A vector with covariance diag(p) - p p^T over random signs, where p is the softmax of the logits.

    It is the covariance of a one-hot class drawn from p, and the negative Hessian of log p(class).

    >>> softmax_noise(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
    tensor([[ 0.7071, -0.7071]])
    """
    p = logits.softmax(1)
    drawn = p.sqrt() * signs
    return drawn - p * drawn.sum(1, keepdim=True)


def signed_gradient(
    descent: Descent, images: Float[Tensor, "n c h w"], signs: Float[Tensor, "n k"]
) -> Float[Tensor, " d"]:
    """Gradient of the inner product of logits and `softmax_noise`, summed over images."""

    def loss(batch: Tensor) -> Tensor:
        logits = descent.model(batch).float()
        total: Tensor = (softmax_noise(logits.detach(), signs) * logits).sum()
        return total

    return descent.gradient(loss, images)


def diagonal_fisher(
    descent: Descent,
    samples: Samples,
    *,
    classes: int,
    batch: int,
    augment: Augment,
    generator: torch.Generator,
) -> Float[Tensor, " d"]:
    """Estimate the diagonal Fisher of the parameters of a run, mean over images.

    Args:
        descent: The run; its model keeps its mode, and should not move batch-norm statistics.
        samples: Images to average over.
        classes: Outputs k of the model.
        batch: Images per squared gradient; the fewer, the less the estimate varies.
        augment: Augmentation of the images.
        generator: Draws order, augmentation and signs.
    """
    total = torch.zeros(sum(p.numel() for p in descent.parameters), device=samples.device)
    for b in samples.batches(batch, generator, augment):
        signs = 2.0 * torch.randint(2, (len(b), classes), generator=generator) - 1.0
        found = signed_gradient(descent, b.images, signs.to(samples.device))
        total.addcmul_(found, found)
        descent.progress.advance(len(b))
    return total / len(samples)
