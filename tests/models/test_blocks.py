"""Blocks that keep less and compute the rest anew: the same to the bit."""

from collections.abc import Callable

import pytest
import torch

from qmu_edge.models.blocks import Blocks, spare
from qmu_edge.models.layers import Classifier


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_what_is_computed_anew_has_the_same_gradients_and_statistics(
    network: Callable[..., Classifier], architecture: str
) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for save in (False, True):
        model = network(architecture=architecture).train()
        assert not save or spare(model)
        torch.manual_seed(0)  # dropout
        model(images).square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((gradients, dict(model.named_buffers())))
    (gradients, buffers), (again, moved) = found
    assert gradients.keys() == again.keys() and len(gradients) > 20
    assert all(torch.equal(value, again[name]) for name, value in gradients.items())
    assert all(torch.equal(value, moved[name]) for name, value in buffers.items())


def test_memory_is_saved_once(network: Callable[..., Classifier]) -> None:
    model = network()
    assert spare(model)
    assert all(m.recompute for m in model.modules() if isinstance(m, Blocks))
    assert not spare(model)
    assert not spare(torch.nn.Linear(2, 2))
