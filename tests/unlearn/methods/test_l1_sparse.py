"""l1-sparse: what the penalty adds to a gradient, and nothing when it is off."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.registry import METHODS, apply

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _run(name: str, model: Classifier, toy: Toy, **params: Any) -> Classifier:
    data = ForgetRetain(forget=toy(3), retain=toy(8, seed=1), validation=toy(3, seed=2))
    given = METHODS[name].params(batch=8, epochs=1, **params)
    return apply(name, model, data, given, torch.Generator().manual_seed(0))


def test_without_a_penalty_it_is_fine_tuning(network: Network, toy: Toy) -> None:
    plain = _run("finetune", network(), toy).state_dict()
    sparse = _run("l1_sparse", network(), toy, gamma=0.0).state_dict()
    assert all(torch.equal(v, sparse[k]) for k, v in plain.items())


def test_penalty_pulls_weights_and_nothing_else(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    grads: list[dict[str, Tensor]] = []

    def update(self: Descent, loss: Tensor, images: int) -> None:
        found = [p.grad for p in self.parameters]
        grads.append({s.name: g.clone() for s, g in zip(self.spans, found, strict=True) if g is not None})

    monkeypatch.setattr(Descent, "_update", update)
    model = network()
    for gamma in (0.0, 0.25):
        _run("l1_sparse", network(), toy, gamma=gamma)
    without, penalised = grads
    assert {"head.weight", "head.bias", "blocks.0.first.1.weight"} <= without.keys()
    for name, grad in without.items():
        weight = model.get_parameter(name).detach()
        pull = 0.25 * weight.sign() if weight.dim() > 1 else torch.zeros_like(weight)
        torch.testing.assert_close(penalised[name] - grad, pull, rtol=1e-4, atol=1e-5)
