"""The diagonal Fisher from random signs against the sum over classes of per-image gradients."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.fisher import diagonal_fisher, signed_gradient, softmax_noise

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _descent(model: Classifier) -> Descent:
    train_mode(model, statistics=False)
    return Descent(model, Optimization(precision="float32"), 1, Progress())


def _exact(model: Classifier, descent: Descent, images: Tensor) -> Tensor:
    """Sum over images and classes of p(class) times the squared gradient of log p(class)."""
    total = torch.zeros(sum(p.numel() for p in descent.parameters))
    for image in images:
        for label in range(3):
            log_p = model(image[None]).log_softmax(1)[0, label]
            grads = torch.autograd.grad(log_p, descent.parameters)
            flat = torch.empty_like(total)
            torch._foreach_copy_(descent.views(flat), list(grads))
            total += log_p.exp().detach() * flat.square()
    return total


def test_noise_has_the_covariance_of_a_drawn_class() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    p = logits.softmax(1)[0]
    found = torch.zeros(4, 4)
    for signs in product((-1.0, 1.0), repeat=4):
        v = softmax_noise(logits, torch.tensor([signs]))[0]
        found += torch.outer(v, v) / 16
    torch.testing.assert_close(found, p.diag() - torch.outer(p, p))


def test_squared_batch_gradient_is_unbiased(network: Network, toy: Toy) -> None:
    model = network()
    descent = _descent(model)
    (batch,) = toy(2).batches(2)
    found = torch.zeros(sum(p.numel() for p in descent.parameters))
    for rest in product((-1.0, 1.0), repeat=5):  # all signs together turn the gradient only
        signs = torch.tensor([1.0, *rest]).view(2, 3)
        found += signed_gradient(descent, batch.images, signs).square() / 32
    exact = _exact(model, descent, batch.images)
    assert exact.max() > 0
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5 * float(exact.max()))


def test_estimate_is_a_mean_over_images_and_moves_nothing(network: Network, toy: Toy) -> None:
    model = network()
    descent = _descent(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    samples = toy(5)
    estimates = [
        diagonal_fisher(
            descent, samples, classes=3, batch=2, augment=Augment(),
            generator=torch.Generator().manual_seed(seed),
        ).sum()
        for seed in range(12)
    ]  # fmt: skip
    exact = _exact(model, descent, next(samples.batches(5)).images).sum() / 5
    assert float(torch.stack(estimates).mean()) == pytest.approx(float(exact), rel=0.2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
