"""MSG: which weights are drawn anew, from where, and what happens to the gradient of the others."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.methods import msg
from qmu_edge.unlearn.methods.msg import Params, mean_gradient, redraw, reset, smallest

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _descent(model: Classifier) -> Descent:
    return Descent(model, Optimization(precision="float32"), 4, Progress())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_smallest_is_what_sorting_finds_with_zeros_last(share: float) -> None:
    gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    gradient[0] = 0.0
    numbers = gradient.flatten().tolist()
    order = sorted(range(108), key=lambda i: (numbers[i] == 0.0, abs(numbers[i])))
    for layout in (torch.contiguous_format, torch.channels_last):
        mask = smallest(gradient.to(memory_format=layout), share)
        assert sorted(order[: round(share * 108)]) == torch.nonzero(mask.flatten())[:, 0].tolist()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_new_values_are_those_of_the_same_output_channel(layout: torch.memory_format) -> None:
    weight = torch.arange(200.0).view(2, 4, 5, 5).to(memory_format=layout)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    found = redraw(weight, mask, torch.Generator().manual_seed(1))
    assert torch.equal(found[~mask], weight[~mask])
    for channel in range(2):
        drawn = found[channel][mask[channel]]
        assert torch.isin(drawn, weight[channel]).all()
        assert len(torch.unique(drawn)) > 0.5 * len(drawn)  # they are drawn from all of it
    assert (found[mask] == weight[mask]).float().mean() < 0.1


def test_mean_gradient_is_that_of_all_images_at_once(network: Network, toy: Toy) -> None:
    model, samples = network(), toy(11)
    descent = _descent(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    found = mean_gradient(descent, samples, 4, torch.Generator())
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())

    (b,) = samples.batches(11)
    F.cross_entropy(train_mode(model, statistics=False)(b.images), b.labels).backward()  # type: ignore[no-untyped-call]
    for part, parameter in zip(descent.views(found), descent.parameters, strict=True):
        torch.testing.assert_close(part, parameter.grad, rtol=1e-3, atol=1e-5)


def test_reset_draws_convolution_weights_only_and_says_which(network: Network) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    descent = _descent(model)
    gradient = torch.randn(descent.spans[-1].indices.stop, generator=torch.Generator().manual_seed(0))
    factors = reset(descent, gradient, Params(share=0.3), torch.Generator().manual_seed(1))
    for span, parameter, factor in zip(
        descent.spans, descent.parameters, descent.views(factors), strict=True
    ):
        moved = parameter != before[span.name]
        if span.group != "weights":
            assert not moved.any()
            assert (factor == 1.0).all()
            continue
        assert not (moved & (factor != 1.0)).any()
        assert torch.unique(factor).tolist() == pytest.approx([0.1, 1.0])
        assert float((factor == 1.0).float().mean()) == pytest.approx(0.3, abs=0.03)
        assert moved.float().mean() > 0.2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "scaling" in k)


def test_difference_is_retain_minus_forget_and_damping_reaches_every_later_gradient(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = toy(12)
    retain = everything.take(torch.arange(4, 12))
    data = ForgetRetain(forget=everything.take(torch.arange(4)), retain=retain, validation=toy(3))
    model = network()
    factors: list[Tensor] = []
    followed: list[Tensor] = []
    measured: dict[int, Tensor] = {}

    def gradient(descent: Descent, samples: Samples, batch: int, generator: torch.Generator) -> Tensor:
        assert len(samples) == 4
        kept = bool(torch.isin(samples.index, retain.index).all())
        return measured.setdefault(kept, mean_gradient(descent, samples, batch, generator))

    def spy(descent: Descent, gradient: Tensor, *rest: object) -> Tensor:
        assert torch.equal(gradient, measured[True] - measured[False])
        factors.append(reset(descent, gradient, *rest))  # type: ignore[arg-type]
        return factors[-1]

    monkeypatch.setattr(msg, "mean_gradient", gradient)
    monkeypatch.setattr(msg, "reset", spy)
    monkeypatch.setattr(Descent, "follow", lambda self, gradient, images: followed.append(gradient))
    msg.run(model, data, Params(epochs=2, batch=4, damping=0.0), torch.Generator().manual_seed(0))
    assert len(followed) == 4
    for step in followed:
        assert (step[factors[0] == 0.0] == 0.0).all()
        assert (step[factors[0] == 1.0] != 0.0).float().mean() > 0.5
