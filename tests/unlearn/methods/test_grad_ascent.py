"""Gradient ascent: one step climbs the loss of the forget set, and the statistics stay."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import train_mode
from qmu_edge.unlearn.methods.grad_ascent import Params, run


def test_one_step_is_the_gradient_of_the_forget_loss_added(
    network: Callable[..., Classifier], toy: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmu_edge.train.loop.mixed_precision", lambda *_: False)
    data = ForgetRetain(forget=toy(6), retain=toy(3, seed=1), validation=toy(3, seed=2))
    model = network(activation_bits="float", weight_bits=8)
    by_hand = copy.deepcopy(model)
    train_mode(by_hand, statistics=False)
    (batch,) = data.forget.batches(6)
    F.cross_entropy(by_hand(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
    before = copy.deepcopy(model.state_dict())
    run(model, data, Params(epochs=1, batch=6, lr=0.01), torch.Generator().manual_seed(0))
    after = model.state_dict()
    gradients = {name: p.grad for name, p in by_hand.named_parameters() if "scaling" not in name}
    for name, value in before.items():
        gradient = gradients.get(name)
        if gradient is None:  # scales, and the statistics of batch-norm
            assert torch.equal(after[name], value), name
        else:
            torch.testing.assert_close(after[name], value + 0.01 * gradient, rtol=1e-4, atol=1e-6)
