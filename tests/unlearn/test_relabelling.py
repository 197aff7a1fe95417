"""One epoch over both sets: its length, its end, and what forget images may not look like."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.train.batches import Batch, ForgetRetain, Samples
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import boundary_shrink, held_out_match, qmul
from qmu_edge.unlearn.registry import apply, parameters
from qmu_edge.unlearn.relabelling import steps_of

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _sets(toy: Toy, forget: int) -> ForgetRetain:
    pool = toy(24)
    first, second, third = (pool.take(torch.arange(*at)) for at in ((0, forget), (forget, 18), (18, 24)))
    return ForgetRetain(forget=first, retain=second, validation=third)


@pytest.mark.parametrize("name", ["qmul", "random_label", "salun"])
@pytest.mark.parametrize("loop", ["mixed", "sequential"])
@pytest.mark.parametrize("forget", [1, 7])
def test_the_schedule_ends_with_the_run(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch, name: str, loop: Any, forget: int
) -> None:
    rates: list[float] = []
    step = Descent.step

    def spy(self: Descent, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        step(self, loss, batch)
        rates.append(self.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(Descent, "step", spy)
    params = parameters(name, {"loop": loop, "epochs": 2, "batch": 4}, TrainRecipe())
    apply(name, network(), _sets(toy, forget), params, torch.Generator().manual_seed(0))
    assert len(rates) == 2 * steps_of(loop, forget, 18 - forget, 4)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12) and 0.0 not in rates[:-1]


@pytest.mark.parametrize("method", [qmul, boundary_shrink, held_out_match])
def test_where_there_is_no_other_class_all_are_possible(network: Network, toy: Toy, method: Any) -> None:
    pool = toy(24)
    left = pool.take(torch.nonzero(pool.labels == 1)[:, 0])
    forget, retain = (left.take(torch.arange(*at)) for at in ((0, 2), (2, len(left))))
    model = network()
    reference = method.run(
        network(), ForgetRetain(forget=forget, retain=retain, validation=retain),
        method.Params(epochs=1, batch=8), torch.Generator().manual_seed(0),
    )  # fmt: skip
    data = ForgetRetain(forget=forget, retain=retain, validation=retain, unretained=(0, 2))
    method.run(model, data, method.Params(epochs=1, batch=8), torch.Generator().manual_seed(0))
    for ours, theirs in zip(model.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("classes", [(0, 1), (0, 2), (1, 2)])
def test_forgotten_classes_are_no_way_out(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch, classes: tuple[int, ...]
) -> None:
    (left,) = {0, 1, 2} - {*classes}
    pool = toy(24)
    gone = torch.isin(pool.labels, torch.tensor(classes))
    forget, retain = (pool.take(torch.nonzero(part)[:, 0]) for part in (gone, ~gone))
    data = ForgetRetain(forget=forget, retain=retain, validation=retain, classes=classes, unretained=classes)
    seen: list[Tensor] = []
    relabelled = Samples.relabelled

    def spy(self: Samples, labels: Tensor) -> Samples:
        seen.append(labels)
        return relabelled(self, labels)

    monkeypatch.setattr(Samples, "relabelled", spy)
    generator = torch.Generator().manual_seed(0)
    qmul.run(network(), data, qmul.Params(epochs=1, batch=8), generator)
    boundary_shrink.run(network(), data, boundary_shrink.Params(epochs=1, batch=8), generator)
    assert len(seen) == 2 and all((labels == left).all() for labels in seen)

    wanted: list[Tensor] = []
    targets = held_out_match.targets

    def kept(*args: Tensor) -> Tensor:
        wanted.append(targets(*args))
        return wanted[-1]

    monkeypatch.setattr(held_out_match, "targets", kept)
    held_out_match.run(network(), replace(data), held_out_match.Params(epochs=1, batch=8), generator)
    assert torch.equal(wanted[0], torch.eye(3)[left].expand(len(forget), 3))
