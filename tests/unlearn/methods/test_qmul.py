"""Q-MUL: similar labels and gradient norms against the obvious loops, weights, switches."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, Batch, ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.methods import qmul
from qmu_edge.unlearn.methods.munba import Bargain, nash_epoch
from qmu_edge.unlearn.methods.qmul import Params, balance, mean_gradient_norm, similar_labels
from qmu_edge.unlearn.methods.random_label import random_labels
from qmu_edge.unlearn.relabelling import epoch
from tests.unlearn.toys import split

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]

LOGIT = st.one_of(
    st.integers(-3, 3).map(float),  # ties
    st.floats(-30, 30, width=32),
    st.sampled_from([-1e4, 1e4, 0.0]),  # saturated
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    """Logits (n, k) and labels."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    logits = draw(st.lists(st.lists(LOGIT, min_size=k, max_size=k), min_size=n, max_size=n))
    return logits, draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))


@settings(max_examples=200, deadline=None)
@given(batches())
def test_similar_label_is_the_nearest_probability_among_the_others(
    case: tuple[list[list[float]], list[int]],
) -> None:
    logits, labels = case
    found = similar_labels(torch.tensor(logits), torch.tensor(labels)).tolist()
    for row, label, chosen in zip(logits, labels, found, strict=True):
        others = [k for k in range(len(row)) if k != label]
        assert chosen in others
        if row.index(max(row)) == label:
            assert row[chosen] == max(row[k] for k in others)
            continue
        top = max(row)
        total = sum(math.exp(z - top) for z in row)
        p = [math.exp(z - top) / total for z in row]
        assert abs(p[chosen] - p[label]) <= min(abs(p[k] - p[label]) for k in others) + 1e-12


def test_saturated_network_still_tells_the_runner_up() -> None:
    logits = torch.tensor([[1e4, -1e4, -9e3, -2e4], [300.0, 1e4, 299.0, 298.0]])
    assert similar_labels(logits, torch.tensor([0, 1])).tolist() == [2, 0]


@given(st.floats(0, 1e30), st.floats(0, 1e30))
def test_weights_add_up_to_one_and_equalise_the_norms(forget: float, retain: float) -> None:
    f, r = balance(forget, retain)
    assert f + r == pytest.approx(1.0)
    assert 0 <= f <= 1
    if forget or retain:
        assert f * forget == pytest.approx(r * retain, rel=1e-9)
    assert balance(retain, forget) == (r, f)


@pytest.mark.parametrize("norm", ["tensors", "global"])
@pytest.mark.parametrize("cap", [2, 10])
def test_mean_gradient_norm_is_what_a_loop_computes(network: Network, toy: Toy, norm: Any, cap: int) -> None:
    model, samples = network(), toy(14)
    params = Params(batch=4, norm=norm)
    descent = Descent(model, Optimization(scale_lr=0.0, precision="float32"), 1, Progress())
    before = copy.deepcopy(model.state_dict())
    augment, generator = Augment(pad=1), torch.Generator().manual_seed(5)
    found = mean_gradient_norm(model, samples, descent, params, generator, batches=cap, augment=augment)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())

    norms = []
    for batch in list(samples.batches(4, torch.Generator().manual_seed(5), augment))[:cap]:
        model.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
        each = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
        norms.append(sum(each) if norm == "tensors" else math.sqrt(sum(e**2 for e in each)))
    assert len(norms) == min(cap, 4)
    assert found == pytest.approx(sum(norms) / len(norms), rel=1e-5)


def test_each_epoch_uses_fresh_similar_labels_and_balanced_weights(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), replace(split(toy, 18, 6), augment=Augment(flip=True))
    norms: list[float] = []
    checked: list[bool] = []
    original_norm, original_epoch = qmul.mean_gradient_norm, epoch

    def measured(*args: Any, **kwargs: Any) -> float:
        assert kwargs["augment"] == data.augment
        norms.append(original_norm(*args, **kwargs))
        return norms[-1]

    def spy(descent: Descent, data: ForgetRetain, forget: Samples, weights: Any, **kwargs: Any) -> None:
        assert weights == balance(*norms[-2:])
        assert torch.equal(forget.labels, similar_labels(predict(model, data.forget), data.forget.labels))
        assert not (forget.labels == data.forget.labels).any()
        assert torch.equal(forget.index, data.forget.index)
        checked.append(True)
        original_epoch(descent, data, forget, weights, **kwargs)

    monkeypatch.setattr(qmul, "mean_gradient_norm", measured)
    monkeypatch.setattr(qmul, "epoch", spy)
    qmul.run(model, data, Params(epochs=2, batch=8), torch.Generator().manual_seed(0))
    assert len(checked) == 2
    assert len(norms) == 4


def test_switches_change_the_result(network: Network, toy: Toy) -> None:
    results = []
    for switch in (
        {}, {"similar_labels": False}, {"reweighting": False}, {"loop": "sequential"}, {"norm": "global"},
        {"scale_lr": 0.5}, {"weighting": "nash"}, {"weighting": "nash", "similar_labels": False},
    ):  # fmt: skip
        params = Params(epochs=1, batch=8, lr=0.1, **switch)
        model = qmul.run(network(), split(toy, 18, 6), params, torch.Generator().manual_seed(0)).eval()
        results.append(predict(model, toy(6)))
    for i, a in enumerate(results):
        assert a.isfinite().all()
        assert not any(torch.equal(a, b) for b in results[:i])


def test_bargain_is_about_similar_labels_and_ends_with_reweighting(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), split(toy, 18, 6)
    seen: list[Tensor] = []

    def spy(descent: Descent, data: ForgetRetain, forget: Samples, bargain: Bargain, **kwargs: Any) -> None:
        expected = similar_labels(predict(model, data.forget), data.forget.labels)
        assert torch.equal(forget.labels, expected)
        seen.append(forget.labels)
        nash_epoch(descent, data, forget, bargain, **kwargs)

    monkeypatch.setattr(qmul, "nash_epoch", spy)
    qmul.run(model, data, Params(epochs=2, batch=8, weighting="nash"), torch.Generator().manual_seed(0))
    assert len(seen) == 2
    off = Params(epochs=1, batch=8, weighting="nash", reweighting=False)
    qmul.run(model, data, off, torch.Generator().manual_seed(0))
    assert len(seen) == 2


@pytest.mark.parametrize("loop", ["mixed", "sequential"])
@pytest.mark.parametrize("batch", [4, 18])
def test_weights_reach_their_own_images(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch, loop: Any, batch: int
) -> None:
    model, data = network(), split(toy, 18, 6)
    seen: list[tuple[Tensor, Tensor]] = []
    losses: list[Tensor] = []

    def step(self: Descent, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        losses.append(loss(batch).detach())

    monkeypatch.setattr(Descent, "step", step)
    descent = Descent(model, Optimization(precision="float32"), 9, Progress())
    hook = model.register_forward_hook(lambda _, x, y: seen.append((x[0], y.detach())))
    forget = data.forget.relabelled(torch.full((6,), 2))
    epoch(
        descent, data, forget, (0.25, 0.75),
        loop=loop, batch=batch, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    hook.remove()
    assert model.training

    pool = toy(18)
    total = 0
    order = []
    for (images, logits), loss in zip(seen, losses, strict=True):
        weights, labels = [], []
        for image in images:
            (at,) = [i for i, p in enumerate(pool.images()) if torch.equal(p / 255.0, image)]
            order.append(at)
            weights.append(0.25 if at < 6 else 0.75)
            labels.append(2 if at < 6 else int(pool.labels[at]))
        each = F.cross_entropy(logits, torch.tensor(labels), reduction="none")
        torch.testing.assert_close(loss, (each * torch.tensor(weights)).mean())
        total += len(images)
    assert sorted(order) == list(range(18))
    assert (max(order[:6]) < 6) == (loop == "sequential")


def test_random_labels_are_uniform_over_all_classes() -> None:
    labels = random_labels(3000, 3, torch.Generator().manual_seed(0))
    assert labels.bincount(minlength=3).tolist() == pytest.approx([1000] * 3, abs=100)
    assert torch.equal(labels, random_labels(3000, 3, torch.Generator().manual_seed(0)))
