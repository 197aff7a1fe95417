"""OEU-style unlearning: losses and projection against numbers and loops, and what a step really does."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import quantized_weights, weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.methods import oeu
from qmu_edge.unlearn.methods.oeu import Params, cosine_of_change, negative_entropy, orthogonal, uniform_loss
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_gradients_of_the_losses_are_those_worked_out_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 9.0, 0.0]], requires_grad=True)
    p = logits.detach().softmax(1)
    (uniform,) = torch.autograd.grad(uniform_loss(logits), [logits])
    torch.testing.assert_close(uniform, (p - 1 / 3) / 2)
    (entropy,) = torch.autograd.grad(negative_entropy(logits), [logits])
    h = -(p * p.log()).sum(1, keepdim=True)
    torch.testing.assert_close(entropy, p * (p.log() + h) / 2)
    assert entropy[1].abs().max() < 0.01 < uniform[1].abs().max()  # why "uniform" is the default


@pytest.mark.parametrize("sizes", [[9], [2, 3, 4]])
@pytest.mark.parametrize("conflict_only", [True, False])
def test_projection_is_what_a_loop_computes(sizes: list[int], conflict_only: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        f, r = torch.randn(2, 9, generator=generator)
        found = orthogonal(f, r, sizes, conflict_only=conflict_only)
        start = 0
        for size in sizes:
            part = slice(start, start := start + size)
            dot = float(f[part] @ r[part])
            if conflict_only and dot > 0:
                assert torch.equal(found[part], f[part])
                continue
            torch.testing.assert_close(found[part], f[part] - dot / float(r[part] @ r[part]) * r[part])
            assert abs(float(found[part] @ r[part])) < 1e-5


def test_without_a_retain_gradient_nothing_is_taken_away() -> None:
    assert torch.equal(orthogonal(torch.ones(3), torch.zeros(3), [3], conflict_only=False), torch.ones(3))


@pytest.mark.parametrize("projection", ["whole", "tensor"])
def test_step_adds_the_orthogonal_part_to_the_retain_gradient(
    projection: Any, network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), replace(split(toy), classes=(2,))
    before = copy.deepcopy(model)
    steps: list[Tensor] = []
    original = Descent.follow

    def follow(self: Descent, gradient: Tensor, images: int) -> None:
        steps.append(gradient.clone())
        original(self, gradient, images)

    monkeypatch.setattr(Descent, "follow", follow)
    params = Params(epochs=1, batch=8, forget_weight=2.0, projection=projection)
    oeu.run(model, data, params, torch.Generator().manual_seed(0))

    train_mode(before, statistics=False)
    descent = Descent(before, Optimization(), 1, Progress())

    def logits(samples: Samples) -> Tensor:
        found: Tensor = before(samples.images().float() / 255.0)
        return found

    retain = descent.gradient(lambda s: F.cross_entropy(logits(s), s.labels), data.retain)
    forget = descent.gradient(lambda s: uniform_loss(logits(s)), data.forget)
    (step,) = steps
    away = (step - retain) / 2.0
    pieces = [s.indices for s in descent.spans] if projection == "tensor" else [slice(None)]
    for part in pieces:
        f, r = forget[part].double(), retain[part].double()
        torch.testing.assert_close(away[part].double(), f - (f @ r) / (r @ r) * r, rtol=1e-3, atol=1e-5)


def test_cosine_is_over_what_ships_and_in_the_order_of_the_weights(network: Network) -> None:
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    descent = Descent(model, Optimization(), 1, Progress())
    before = quantized_weights(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in weight_layers(model):
            layer.weight.add_(0.1 * torch.randn(layer.weight.shape, generator=generator))
    flat = torch.randn(descent.spans[-1].indices.stop, generator=generator)
    named = {s.name: v for s, v in zip(descent.spans, descent.views(flat), strict=True)}
    found = cosine_of_change(before, quantized_weights(model), named)

    dot = length = other = 0.0
    for name, layer in weight_layers(model):
        change = layer.quant_weight().value.detach() - before[f"{name}.weight"]
        gradient = named[f"{name}.weight"]
        dot += float((change * gradient).sum())
        length += float(change.square().sum())
        other += float(gradient.square().sum())
    assert float(found) == pytest.approx(dot / (length * other) ** 0.5, abs=1e-6)
    assert length > 0
    assert float(cosine_of_change(before, before, named)) == 0.0


def test_classes_take_all_epochs_and_samples_stop_at_the_crossing(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda _, text: notes.append(text))
    ended = {}
    for classes in ((), (2,)):
        notes.clear()
        data = replace(split(toy), classes=classes)
        model = network()
        oeu.run(model, data, Params(epochs=3, batch=8, lr=1e-4), torch.Generator().manual_seed(0))
        assert not any(p.requires_grad for n, p in model.named_parameters() if "scaling_impl" in n)
        ended[classes] = sum("against retain gradient" in note for note in notes)
    assert ended == {(): 1, (2,): 3}  # an untrained network knows neither set
