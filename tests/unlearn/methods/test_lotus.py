"""LoTUS: its targets written out, the temperature that follows the accuracies, and when it stops."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import lotus
from qmu_edge.unlearn.methods.lotus import Params, gumbel, smoothed
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_largest_noisy_logit_is_a_draw_from_the_softmax() -> None:
    p = torch.tensor([0.6, 0.3, 0.1])
    noise = gumbel(20_000, 3, torch.Generator().manual_seed(0))
    drawn = (p.log() + noise).argmax(1).bincount() / 20_000
    torch.testing.assert_close(drawn, p, rtol=0.0, atol=0.02)
    soft = smoothed(p.log().expand_as(noise), noise, 1e-3)
    assert torch.equal(soft.argmax(1), (p.log() + noise).argmax(1))


def test_forget_targets_are_smoothed_and_retain_targets_hard(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), split(toy)
    both = data.forget + data.retain
    logits = predict(model, both)
    losses: list[Tensor] = []
    noise = torch.tensor([0.5, -1.0, 2.0])  # the same for all, so that order does not matter
    monkeypatch.setattr(lotus, "gumbel", lambda n, k, generator: noise.expand(n, k))
    monkeypatch.setattr(lotus, "accuracy", lambda model, samples: 0.5 if len(samples) == 6 else 0.75)
    monkeypatch.setattr(Descent, "step", lambda self, loss, batch: losses.append(loss(batch).detach()))
    params = Params(epochs=1, batch=12, retain_share=1.0, alpha=2.0)
    lotus.run(model, data, params, torch.Generator().manual_seed(0))

    target = ((logits + noise) / math.exp(2.0 * 0.25)).softmax(1)
    target[4:] = F.one_hot(logits[4:].argmax(1), 3).float()
    found = model.train()(next(both.batches(12)).images)  # under the statistics of the batch
    expected = -(target * found.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses, [expected])


@pytest.mark.parametrize(
    ("classes", "forget", "expected"),
    [
        ((), [0.9, 0.7, 0.48], [3.2, 1.6]),  # 8 * gap to 0.5; stops when it is below -0.01
        ((), [0.2, 0.495, 0.1], [-2.4, -0.04]),  # always one epoch
        ((1,), [0.9, 0.7, 0.0], [7.2, 7.2]),  # a class never seen has accuracy 0, and no less
    ],
)
def test_temperature_follows_the_accuracies_until_they_meet(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch,
    classes: tuple[int, ...], forget: list[float], expected: list[float],
) -> None:  # fmt: skip
    data = replace(split(toy), classes=classes)
    measured = iter(forget)
    used: list[float] = []

    def spy(logits: Tensor, noise: Tensor, t: float) -> Tensor:
        used.append(math.log(t))
        return logits.softmax(1)

    def scripted(model: Classifier, samples: Samples) -> float:
        if samples is data.validation:
            assert not classes
            return 0.5
        return next(measured, 0.0)

    monkeypatch.setattr(lotus, "smoothed", spy)
    monkeypatch.setattr(lotus, "accuracy", scripted)
    lotus.run(network(), data, Params(epochs=3, batch=12), torch.Generator().manual_seed(0))
    assert used == pytest.approx(expected)


def test_samples_need_a_validation_set_and_classes_do_not(network: Network, toy: Toy) -> None:
    data = replace(split(toy), validation=toy(0))
    params = Params(epochs=1, batch=12)
    with pytest.raises(UnlearnError, match="the validation set is empty"):
        apply("lotus", network(), data, params, torch.Generator())
    apply("lotus", network(), replace(data, classes=(0,)), params, torch.Generator())
