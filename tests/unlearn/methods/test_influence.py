"""Influence: the step against gradients image by image, the search, its images."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.methods import influence
from qmu_edge.unlearn.methods.influence import Params, costs_too_much, lengths
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _weights(model: Classifier) -> dict[str, Tensor]:
    """Copies of what the step may move."""
    found = {n: p for n, p in model.named_parameters() if "scaling_impl" not in n}
    return {n: p.detach().clone() for n, p in found.items() if p.dim() > 1 or n == "head.bias"}


def _run(model: Classifier, data: ForgetRetain, **params: Any) -> Classifier:
    return apply("influence", model, data, Params(batch=4, **params), torch.Generator().manual_seed(0))


def test_step_is_the_scaled_difference_of_mean_gradients(network: Network, toy: Toy) -> None:
    data, model = split(toy, 11, 3), network()
    expected = {n: torch.zeros_like(w) for n, w in _weights(model).items()}
    for samples, sign in ((data.forget, 1.0), (data.retain, -1.0)):
        for b in samples.batches(1):
            loss = F.cross_entropy(model(b.images), b.labels)
            grads = torch.autograd.grad(loss, [model.get_parameter(n) for n in expected])
            for total, grad in zip(expected.values(), grads, strict=True):
                total += 3 / 11 * sign * grad / len(samples)
    before = _weights(model)
    after = _weights(_run(model, data, alpha=20.0))
    for name, step in expected.items():
        torch.testing.assert_close(after[name] - before[name], 20.0 * step, rtol=1e-3, atol=1e-5)


def test_second_variant_divides_by_the_damped_fisher(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = _weights(network())
    plain = _weights(_run(network(), split(toy, 11, 3), alpha=8.0))
    monkeypatch.setattr(
        influence, "diagonal_fisher",
        lambda descent, *_, **__: torch.full((sum(p.numel() for p in descent.parameters),), 0.5),
    )  # fmt: skip
    divided = _weights(_run(network(), split(toy, 11, 3), alpha=8.0, variant="diagonal_fisher", damping=3.0))
    for name, origin in start.items():
        torch.testing.assert_close(divided[name] - origin, (plain[name] - origin) / 2.0, atol=1e-6, rtol=1e-3)


def test_search_ends_before_the_first_length_that_costs_too_much(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([90, 90, 81, 70, 100])  # 9 of 9 that turned: 5 + 2 * 3 allowed; 20: 5 + 2 * 4.5
    monkeypatch.setattr(influence, "_right", lambda *_: torch.arange(100) < next(scripted))
    searched = _weights(_run(network(), split(toy, 11, 3), max_drop=0.05))
    told = _weights(_run(network(), split(toy, 11, 3), alpha=lengths(Params())[1]))
    assert all(torch.equal(searched[n], told[n]) for n in told)


def test_predictions_that_turn_either_way_are_no_loss() -> None:
    before = torch.arange(500) < 250
    for wrong, right, costs in ((30, 20, False), (10, 0, False), (40, 10, True), (11, 0, True)):
        after = before.clone()
        after[:wrong], after[250 : 250 + right] = False, True
        assert costs_too_much(before, after, Params(max_drop=0.008)) is costs  # 4 images and 2 errors


def test_search_without_a_length_that_keeps_accuracy_is_an_error(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([90, 80])
    monkeypatch.setattr(influence, "_right", lambda *_: torch.arange(100) < next(scripted))
    with pytest.raises(UnlearnError, match=r"costs more than 1.0% of validation accuracy"):
        _run(network(), split(toy, 11, 3))


def test_lengths_are_judged_under_statistics_of_the_changed_network(network: Network, toy: Toy) -> None:
    model, data, params = network(), split(toy, 11, 3), Params(batch=4, statistics_images=8)
    before = influence._right(model, data, params, torch.Generator().manual_seed(0))
    first = {n: b.clone() for n, b in model.named_buffers() if n.endswith("running_mean")}
    name = next(n for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1)
    with torch.no_grad():
        model.get_parameter(name).mul_(0.5)
    influence._right(model, data, params, torch.Generator().manual_seed(0))
    assert before.shape == (6,)
    assert any(not torch.equal(b, first[n]) for n, b in model.named_buffers() if n in first)


def test_only_images_of_kept_classes_judge(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[Tensor] = []

    def spy(model: Classifier, samples: Samples) -> Tensor:
        labels.append(samples.labels)
        return torch.zeros(len(samples.labels), 3)

    monkeypatch.setattr(influence, "predict", spy)
    _run(network(), replace(split(toy, 11, 3), classes=(2,)))
    assert len(labels) == 1 + len(lengths(Params()))
    assert sorted(set(labels[0].tolist())) == [0, 1]
    with pytest.raises(UnlearnError, match="the validation set is empty"):
        _run(network(), replace(split(toy, 11, 3), classes=(0, 1, 2)))
