"""Selective synaptic dampening: importance against loops, and each weight against its own factor."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.methods import ssd
from qmu_edge.unlearn.methods.ssd import Params, dampening, importance
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.mark.parametrize("batch", [1, 3])
def test_importance_is_what_a_loop_computes(network: Network, toy: Toy, batch: int) -> None:
    model, samples = network(), toy(7)  # the last batch is smaller
    train_mode(model, statistics=False)
    descent = Descent(model, Optimization(precision="float32"), 1, Progress())
    before = copy.deepcopy(model.state_dict())
    found = descent.views(importance(descent, samples, batch, torch.Generator().manual_seed(5)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    expected = [torch.zeros_like(p) for p in descent.parameters]
    for b in samples.batches(batch, torch.Generator().manual_seed(5)):
        sums = [torch.zeros_like(p) for p in descent.parameters]
        for image, label in zip(b.images, b.labels, strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            for total, gradient in zip(sums, torch.autograd.grad(loss, descent.parameters), strict=True):
                total += gradient
        for each, total in zip(expected, sums, strict=True):
            each += total**2 / 7
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-6 * float(e.max()))


def test_importance_of_noise_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, toy: Toy) -> None:
    descent = Descent(torch.nn.Linear(2, 2), Optimization(), 1, Progress())
    noise = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))

    def measured(batch: int) -> Tensor:
        rows = iter(torch.split(noise, batch))
        monkeypatch.setattr(Descent, "gradient", lambda self, loss, batch: next(rows).sum(0))
        return importance(descent, toy(3000), batch, torch.Generator())

    torch.testing.assert_close(measured(1), torch.ones(6), rtol=0.1, atol=0.0)
    torch.testing.assert_close(measured(7), torch.ones(6), rtol=0.2, atol=0.0)


def test_factors_by_hand() -> None:
    forget, everything = torch.tensor([8.0, 8.0, 8.0, 0.0]), torch.tensor([1.0, 3.0, 4.0, 0.0])
    factors, chosen = dampening(forget, everything, Params(threshold=2.0, strength=4.0))
    assert chosen.tolist() == [True, True, False, False]
    assert factors.tolist() == [0.5, 1.0, 1.0, 1.0]  # never larger than before


def test_each_weight_gets_its_own_factor_and_the_others_stay_to_the_bit(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    before = copy.deepcopy(dict(model.named_parameters()))
    seen: list[Tensor] = []
    measure = ssd.importance

    def spy(*args: Any) -> Tensor:
        seen.append(measure(*args))
        return seen[-1]

    monkeypatch.setattr(ssd, "importance", spy)
    ssd.run(model, split(toy), Params(threshold=1.0, batch=8), torch.Generator().manual_seed(0))

    descent = Descent(model, Optimization(), 1, Progress())  # only weights still require a gradient
    assert {span.group for span in descent.spans} == {"weights", "head"}
    moved = 0
    forget, everything = (descent.views(s) for s in seen)
    for span, after, f, e in zip(descent.spans, descent.parameters, forget, everything, strict=True):
        old = before[span.name]
        expected = torch.where(f > e, old * (e / f), old)
        assert torch.equal(after, expected)
        moved += int((after != old).sum())
    assert 0 < moved < sum(p.numel() for p in descent.parameters)


def test_variant_of_the_released_loader_keeps_batches_of_both_sets_apart(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), split(toy)
    before = copy.deepcopy(dict(model.named_parameters()))
    seen: list[Samples] = []

    def measure(descent: Descent, samples: Samples, batch: int, generator: torch.Generator) -> Tensor:
        seen.append(samples)
        return torch.full((sum(p.numel() for p in descent.parameters),), 6.0 if len(seen) == 1 else 0.0)

    monkeypatch.setattr(ssd, "importance", measure)
    params = Params(variant="released", threshold=2.9, batch=8)  # all / forget images is 3
    ssd.run(model, data, params, torch.Generator().manual_seed(0))
    assert [s is ours for s, ours in zip(seen, (data.forget, data.retain), strict=True)] == [True] * 2
    descent = Descent(model, Optimization(), 1, Progress())  # only weights still require a gradient
    for span, after in zip(descent.spans, descent.parameters, strict=True):
        torch.testing.assert_close(after, before[span.name] / 3.0)


def test_saturated_weights_are_measured(network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    name, layer = list(weight_layers(model))[3]
    with torch.no_grad():
        layer.weight[0].copy_(layer.weight[0].sign() * 9.0 * layer.weight.abs().max())
    before = layer.weight[0].detach().clone()
    ssd.run(model, split(toy), Params(threshold=0.5, strength=0.1, batch=8), torch.Generator().manual_seed(0))
    assert not torch.equal(layer.weight[0], before), name


def test_run_that_would_change_nothing_is_an_error(network: Network, toy: Toy) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    # A third of the images: image by image no weight can matter more than three times more to them.
    with pytest.raises(UnlearnError, match=r"no weight matters 3.1 times more .* a smaller value"):
        ssd.run(model, split(toy), Params(threshold=3.1, batch=1), torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
