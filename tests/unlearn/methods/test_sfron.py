"""SFRon: adaptive weights, the mask against a loop, the ascent, and when it happens."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Batch, Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.methods import sfron
from qmu_edge.unlearn.methods.sfron import Params, adaptive_loss, climb, saliency
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _descent(model: Classifier) -> Descent:
    settings = Optimization(precision="float32", lr=1e-3, schedule="constant")
    return Descent(model, settings, 9, Progress())


def test_large_losses_count_less_and_weights_have_no_gradient() -> None:
    losses = torch.tensor([1.0, 4.0, 16.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(adaptive_loss(losses, Params(power=0.5)), losses)
    torch.testing.assert_close(gradient, torch.tensor([4.0, 2.0, 1.0]) / 7.0)
    (plain,) = torch.autograd.grad(adaptive_loss(losses, Params(power=0.0)), losses)
    torch.testing.assert_close(plain, torch.full((3,), 1 / 3))


def test_image_of_loss_zero_leaves_weight_to_the_others() -> None:
    losses = torch.tensor([0.0, 0.01], requires_grad=True)
    (gradient,) = torch.autograd.grad(adaptive_loss(losses, Params(power=0.5)), losses)
    assert gradient[1] > 0.005
    assert gradient.isfinite().all()


@pytest.mark.parametrize("threshold", [0.0, 1.0, 30.0])
def test_mask_is_what_a_loop_computes(network: Network, toy: Toy, threshold: float) -> None:
    model, data = network(), split(toy)
    descent = _descent(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    params = Params(batch=4, threshold=threshold)
    mask = saliency(descent, data, params, torch.Generator().manual_seed(3))
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())

    generator = torch.Generator().manual_seed(3)
    squares = []
    for samples in (data.forget, data.retain):
        found = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        batches = list(samples.batches(4, generator))
        for b in batches:
            model.zero_grad()
            F.cross_entropy(train_mode(model, statistics=False)(b.images), b.labels).backward()  # type: ignore[no-untyped-call]
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    found[name] += parameter.grad**2 / len(batches)
        squares.append(found)
    for span, part in zip(descent.spans, descent.views(mask.float()), strict=True):
        ratio = (squares[0][span.name] + 1e-15) / (squares[1][span.name] + 1e-15)
        expected = (ratio >= threshold) & (ratio.dim() > 1)
        assert (part.bool() == expected).float().mean() > 0.999  # of ratios at the threshold


def test_ascent_goes_up_where_the_mask_lets_it_and_leaves_statistics(network: Network, toy: Toy) -> None:
    model, data = network(), split(toy)
    descent = _descent(model)
    (b,) = data.forget.batches(4)
    size = descent.spans[-1].indices.stop
    mask = torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.5
    before = copy.deepcopy(model.state_dict())

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(train_mode(model, statistics=False)(b.images), b.labels))

    start = loss()
    climb(descent, b, mask, 5.0, Params(power=0.5))
    assert all(module.training for module in model.modules())  # and batch-norm with them
    assert loss() > start
    for span, parameter, part in zip(
        descent.spans, descent.parameters, descent.views(mask.float()), strict=True
    ):
        moved = parameter != before[span.name]
        assert not moved[part == 0.0].any()
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers() if n in before)


def test_ascent_comes_every_few_steps_and_fades(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[float] = []

    def spy(descent: Descent, batch: Batch, mask: object, factor: float, params: Params) -> None:
        assert torch.isin(batch.images * 255, toy(12).images()[:4].float()).all()
        events.append(factor)

    original = Descent.step

    def step(self: Descent, loss: Callable[[Batch], torch.Tensor], batch: Batch) -> None:
        events.append(0.0)
        original(self, loss, batch)

    monkeypatch.setattr(sfron, "climb", spy)
    monkeypatch.setattr(Descent, "step", step)
    params = Params(epochs=3, batch=4, every=3, ascent=8.0)
    sfron.run(network(), split(toy), params, torch.Generator().manual_seed(0))
    assert events == [pytest.approx(8.0), 0, 0, 0, pytest.approx(4.0), 0, 0, 0]
