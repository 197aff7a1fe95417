"""The optimizer loop against steps written out: schedules, one step, flat gradients, clipping, divergence."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import (
    Descent,
    Optimization,
    cosine,
    cross_entropy,
    exponential,
    mixed_precision,
    train_mode,
)  # fmt: skip

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
EXACT = Optimization(lr=0.1, schedule="constant", precision="float32", weight_decay=0.01)


def gradients(model: Classifier, samples: Samples) -> dict[str, Tensor]:
    (batch,) = samples.batches(len(samples))
    model.zero_grad()
    F.cross_entropy(model(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_without_statistics_every_kind_of_dropout_stays_off() -> None:
    kinds = (
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.AlphaDropout,
        nn.BatchNorm2d,
        nn.BatchNorm1d,
    )
    model = train_mode(nn.Sequential(*(kind(1) for kind in kinds), nn.ReLU()), statistics=False)
    assert [m.training for m in model.children()] == [False] * len(kinds) + [True]


@pytest.mark.parametrize("clip", [0.0, 0.25])
def test_a_step_goes_down_the_gradient_and_decays_weights_alone(
    network: Network, toy: Toy, clip: float
) -> None:
    model, samples = train_mode(network(), statistics=False), toy(9)
    assert isinstance(model, Classifier)
    settings = Optimization(
        lr=0.1, schedule="constant", precision="float32", weight_decay=0.01, clip_norm=clip
    )
    descent = Descent(model, settings, 1, Progress())
    names = {span.name for span in descent.spans}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    before, found = copy.deepcopy(model.state_dict()), gradients(copy.deepcopy(model), samples)
    norm = math.sqrt(sum(float(found[name].square().sum()) for name in names))
    assert not clip or norm > clip
    descent.epoch(cross_entropy(model), samples.batches(9))
    for name, value in model.named_parameters():
        scale = min(1.0, clip / norm) if clip else 1.0
        decay = 0.01 * before[name] if before[name].dim() > 1 else 0.0
        expected = before[name] - 0.1 * (scale * found[name] + decay) if name in names else before[name]
        torch.testing.assert_close(value.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_flat_gradient_is_the_gradients_in_order_and_moves_nothing(network: Network, toy: Toy) -> None:
    model, samples = train_mode(network(), statistics=False), toy(6)
    assert isinstance(model, Classifier)
    descent = Descent(model, EXACT, 2, Progress())
    before = copy.deepcopy(model.state_dict())
    (batch,) = samples.batches(6)
    flat = descent.gradient(cross_entropy(model), batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = gradients(copy.deepcopy(model), samples)
    for span, view in zip(descent.spans, descent.views(flat), strict=True):
        torch.testing.assert_close(view, found[span.name], rtol=1e-4, atol=1e-6)
    other = copy.deepcopy(model)
    descent.follow(flat, 6)
    again = Descent(other, EXACT, 2, Progress())
    again.step(cross_entropy(other), batch)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_ends_the_run(network: Network, toy: Toy) -> None:
    model = network()
    descent = Descent(model, EXACT, 1, Progress())
    with pytest.raises(UnlearnError, match="not finite"):
        descent.epoch(lambda batch: model(batch.images).sum() * torch.inf, toy(3).batches(3))


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_schedules_begin_at_the_top_and_only_fall(steps: int) -> None:
    half = [cosine(s, steps, 0) for s in range(steps + 1)]
    assert half == pytest.approx([(1 + math.cos(math.pi * s / steps)) / 2 for s in range(steps + 1)])
    falling = [exponential(s, steps, 0.1) for s in range(steps)]
    assert falling[0] == 1.0 and falling == sorted(falling, reverse=True)
    assert steps == 1 or falling[-1] == pytest.approx(0.1)
    assert [cosine(s, steps + 3, 3) for s in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_settings_are_taken_by_their_names() -> None:
    @dataclass(frozen=True)
    class Params:
        lr: float = 0.5
        batch: int = 7

    assert Optimization.of(Params(), epochs=3) == Optimization(lr=0.5, epochs=3)


def test_precision_that_is_asked_for_is_taken_everywhere() -> None:
    model = nn.Conv2d(4, 4, 1, groups=2)
    assert mixed_precision("bfloat16", model) and not mixed_precision("float32", model)
