"""MUNBa: the bargain, what a step follows, which images it sees and which move the statistics."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.methods.munba import Bargain, nash_epoch, nash_weights
from qmu_edge.unlearn.relabelling import pair_steps, pairs

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
BARGAIN = Bargain(agreement=1e-3, alone=(0.1, 1.0))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(-6, 6), st.floats(-0.8, 1.0))
def test_both_players_gain_the_same(seed: int, scale: float, lean: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    retain, other = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    forget = (lean * retain + (1.0 - abs(lean)) * other) * 10.0**scale
    w_forget, w_retain = nash_weights(forget, retain, BARGAIN)
    step = w_forget * forget + w_retain * retain
    assert float(w_forget * forget.dot(step)) == pytest.approx(1.0)
    assert float(w_retain * retain.dot(step)) == pytest.approx(1.0)
    assert float(step.norm()) == pytest.approx(math.sqrt(2.0))


@pytest.mark.parametrize("forget", [[-2.0, 1e-4], [-2.0, 0.0], [0.0, 0.0]])
def test_without_a_bargain_the_retain_set_leads(forget: list[float]) -> None:
    weights = nash_weights(torch.tensor(forget), torch.tensor([1.0, 0.0]), BARGAIN)
    assert [w.item() for w in weights] == pytest.approx([0.1, 1.0])


def _data(toy: Toy, forget: Samples) -> ForgetRetain:
    return ForgetRetain(forget=forget, retain=toy(12).take(torch.arange(4, 12)), validation=toy(3))


def _descent(model: Classifier, **settings: Any) -> Descent:
    return Descent(model, Optimization(precision="float32", **settings), 4, Progress())


def test_a_step_follows_the_bargain_of_both_gradients(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), _data(toy, toy(4))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # a channel at 0, where a rectifier begins, falls either way
            nn.init.normal_(module.bias, 0.5, 0.5, generator=torch.Generator().manual_seed(0))
    followed: list[tuple[Tensor, int]] = []
    monkeypatch.setattr(Descent, "follow", lambda self, gradient, images: followed.append((gradient, images)))
    reference = copy.deepcopy(model)
    nash_epoch(
        _descent(model), data, data.forget, BARGAIN, batch=8, generator=torch.Generator().manual_seed(0)
    )

    flat = []
    for samples, statistics in ((data.forget, False), (data.retain, True)):
        (b,) = samples.batches(8)
        train_mode(reference, statistics=statistics).zero_grad()
        F.cross_entropy(reference(b.images), b.labels).backward()  # type: ignore[no-untyped-call]
        grads = {n: p.grad for n, p in reference.named_parameters()}
        flat.append({n: g.double() for n, g in grads.items() if g is not None})
    norms = [math.sqrt(sum(float(g.square().sum()) for g in f.values())) for f in flat]
    dot = sum(float((flat[0][n] * flat[1][n]).sum()) for n in flat[0])
    shared = 1.0 / math.sqrt(1.0 + dot / (norms[0] * norms[1]))
    ((step, images),) = followed
    assert images == 12
    descent = _descent(model)
    for span, part in zip(descent.spans, descent.views(step), strict=True):
        expected = shared * (flat[0][span.name] / norms[0] + flat[1][span.name] / norms[1])
        torch.testing.assert_close(part, expected.float(), rtol=1e-3, atol=1e-5)


def test_forget_images_do_not_move_the_statistics(network: Network, toy: Toy) -> None:
    found = []
    for seed in (0, 7):
        model, data = network(), _data(toy, toy(4, seed))
        before = copy.deepcopy(dict(model.named_buffers()))
        descent = _descent(model, lr=1e-12)
        nash_epoch(descent, data, data.forget, BARGAIN, batch=4, generator=torch.Generator().manual_seed(0))
        found.append({n: b for n, b in model.named_buffers() if "running_" in n})
        assert not any(torch.equal(before[n], b) for n, b in found[-1].items())
    for name, buffer in found[0].items():
        torch.testing.assert_close(buffer, found[1][name])


def test_each_step_has_the_same_length(network: Network, toy: Toy) -> None:
    model, data = network(), _data(toy, toy(4))
    descent = _descent(model, lr=0.1, schedule="constant", clip_norm=1.0)
    before = [p.detach().clone() for p in descent.parameters]
    nash_epoch(descent, data, data.forget, BARGAIN, batch=8, generator=torch.Generator().manual_seed(0))
    moved = [p.detach() - b for p, b in zip(descent.parameters, before, strict=True)]
    assert math.sqrt(sum(float(m.square().sum()) for m in moved)) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(("first", "second"), [(3, 10), (10, 3), (4, 4)])
def test_pairs_pass_the_larger_set_once_and_repeat_the_other(toy: Toy, first: int, second: int) -> None:
    found = list(pairs(toy(first), toy(second), (2, 2), torch.Generator().manual_seed(0), Augment()))
    assert len(found) == pair_steps(first, second, (2, 2)) == -(-max(first, second) // 2)
    sides = [p.first for p in found], [p.second for p in found]
    for batches, n in zip(sides, (first, second), strict=True):
        seen = torch.cat([b.positions for b in batches]).bincount(minlength=n)
        assert seen.min() >= 1
        assert seen.max() - seen.min() <= 1
        if n == max(first, second):
            assert seen.tolist() == [1] * n
