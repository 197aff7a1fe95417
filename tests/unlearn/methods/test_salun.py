"""SalUn: saliency against a loop, weights that are held to the bit, and its limits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.methods.salun import most_salient, saliency
from qmu_edge.unlearn.registry import METHODS, apply
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _run(name: str, model: Classifier, toy: Toy, **params: Any) -> Classifier:
    given = METHODS[name].params(**{"epochs": 2, "batch": 8, "lr": 0.05, **params})
    return apply(name, model, split(toy, 18, 6), given, torch.Generator().manual_seed(0))


def _weights(model: Classifier) -> list[Tensor]:
    found = [p for n, p in model.named_parameters() if p.dim() > 1 and "scaling_impl" not in n]
    return [p.detach().clone() for p in found]


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _saliency(model: Classifier, forget: Samples) -> Tensor:
    descent = Descent(model, Optimization(precision="float32"), 1, Progress())
    return saliency(descent, [p for p in descent.parameters if p.dim() > 1], forget, 4)


def test_saliency_is_what_a_loop_over_images_sums_up(network: Network, toy: Toy) -> None:
    model, forget = network(), split(toy, 18, 6).forget
    parameters = [p for n, p in model.named_parameters() if p.dim() > 1 and "scaling_impl" not in n]
    total = [torch.zeros_like(p) for p in parameters]
    for b in forget.batches(1):
        grads = torch.autograd.grad(F.cross_entropy(model(b.images), b.labels), parameters)
        torch._foreach_add_(total, list(grads))
    before = {n: b.clone() for n, b in model.named_buffers()}
    torch.testing.assert_close(_saliency(model, forget), _flat(total), rtol=1e-3, atol=1e-5)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_only_the_salient_share_of_weights_moves(network: Network, toy: Toy, memory_format: Any) -> None:
    model = network().to(memory_format=memory_format)  # type: ignore[call-overload]
    before = _flat(_weights(model))
    mask = most_salient(_saliency(network(), split(toy, 18, 6).forget), 0.3)
    moved = _flat(_weights(_run("salun", model, toy, share=0.3))) != before
    assert int(mask.sum()) == round(0.3 * len(mask))
    assert not (moved & ~mask).any()
    assert moved[mask].double().mean() > 0.99


def test_with_all_weights_it_is_random_labels(network: Network, toy: Toy) -> None:
    plain = _run("random_label", network(), toy).state_dict()
    salun = _run("salun", network(), toy, share=1.0).state_dict()
    assert all(torch.equal(v, salun[k]) for k, v in plain.items())


def test_soft_pull_holds_weights_that_no_gradient_pushes_harder(network: Network, toy: Toy) -> None:
    before = network()
    moved = []
    for beta in (1e-6, 1e-2, 1e6):
        after = _run("salun", network(), toy, variant="soft", beta=beta)
        moved.append(float((_flat(_weights(after)) != _flat(_weights(before))).double().mean()))
        assert not torch.equal(after.get_parameter("head.bias"), before.get_parameter("head.bias"))
    assert moved[0] > 0.95
    assert 0.02 < moved[1] < moved[0] - 0.02
    assert moved[2] == 0.0
