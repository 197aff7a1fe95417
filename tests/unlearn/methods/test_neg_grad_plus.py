"""NegGrad+: the loss of one step written out, its bound, and which images meet."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import neg_grad_plus
from qmu_edge.unlearn.methods.neg_grad_plus import Params, bounded_loss, pairs

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _sets(toy: Toy, forget: int) -> ForgetRetain:
    everything = toy(12)
    first, rest = everything.take(torch.arange(forget)), everything.take(torch.arange(forget, 12))
    return ForgetRetain(forget=first, retain=rest, validation=toy(3))


def test_step_descends_both_losses_with_their_weights(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), _sets(toy, 4)
    with torch.no_grad():
        model.get_parameter("head.bias").copy_(torch.tensor([3.0, 0.0, -1.0]))  # some beyond the bound
    losses: list[Tensor] = []
    monkeypatch.setattr(Descent, "step", lambda self, loss, batch: losses.append(loss(batch).detach()))
    params = Params(epochs=1, batch=8, retain_weight=0.75)
    neg_grad_plus.run(model, data, params, torch.Generator().manual_seed(0))

    retain = F.cross_entropy(predict(model, data.retain), data.retain.labels).item()
    forget = F.cross_entropy(predict(model, data.forget), data.forget.labels, reduction="none").tolist()
    assert min(forget) < math.log(3) < max(forget)
    bounded = sum(min(f, math.log(3)) for f in forget) / 4
    (loss,) = losses
    assert loss.item() == pytest.approx(0.75 * retain - 0.25 * bounded, rel=1e-5)


def test_image_that_is_forgotten_pushes_no_further() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    bounded_loss(logits, torch.tensor([0, 0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0].all()
    assert not logits.grad[1].any()


@pytest.mark.parametrize("forget", [2, 9])
def test_each_retain_image_comes_once_and_forget_images_begin_again(toy: Toy, forget: int) -> None:
    data = _sets(toy, forget)
    met = list(pairs(data, 2, torch.Generator().manual_seed(0)))
    retain = torch.cat([pair.first.positions for pair in met]).tolist()
    assert sorted(retain) == list(range(12 - forget))
    seen = torch.cat([pair.second.positions for pair in met]).bincount(minlength=forget)
    assert seen.max() - seen.min() <= (1 if forget == 9 else 0)
    assert len(met) == steps_per_epoch(12 - forget, 2)
