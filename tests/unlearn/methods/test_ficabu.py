"""FiCABU: from which end it dampens, how that fades, and when it stops."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn.methods import ficabu, ssd
from qmu_edge.unlearn.methods.ficabu import Params, blocks, faded
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.fixture
def sixfold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight matters six times more to the forget set than to all images."""

    def measured(
        model: Classifier, data: ForgetRetain, params: ssd.Params, generator: torch.Generator
    ) -> tuple[Descent, Tensor, Tensor]:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("weight") and parameter.dim() > 1)
        descent = Descent(model, Optimization(), 1, Progress())
        ones = torch.ones(sum(p.numel() for p in descent.parameters))
        return descent, 6.0 * ones, ones

    monkeypatch.setattr(ssd, "importances", measured)


def _changed(before: Classifier, after: Classifier) -> list[str]:
    """Names of the parameters that differ."""
    old = dict(before.named_parameters())
    return [n for n, p in after.named_parameters() if not torch.equal(p, old[n])]


@pytest.mark.usefixtures("sixfold")
@pytest.mark.parametrize(
    ("accuracies", "classes", "ends"),
    [
        ([0.5, 0.9, 0.4], (), ("head", "blocks.7")),  # unseen images, then after each block
        ([0.2, 0.0], (1,), ("head", "blocks.7")),
        ([0.5, 0.5], (), ("head",)),
    ],
)
def test_blocks_behind_change_until_the_forget_set_is_as_unknown_as_unseen_images(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch,
    accuracies: list[float], classes: tuple[int, ...], ends: tuple[str, ...],
) -> None:  # fmt: skip
    scripted = iter(accuracies)
    monkeypatch.setattr(ficabu, "accuracy", lambda model, samples: next(scripted))
    model, data = network(), replace(split(toy), classes=classes)
    before = copy.deepcopy(model)
    ficabu.run(model, data, Params(threshold=5.0, front=1.0), torch.Generator())
    changed = _changed(before, model)
    assert all(name.startswith(ends) for name in changed)
    assert {end for end in ends if any(name.startswith(end) for name in changed)} == {*ends}
    head = before.get_parameter("head.weight")
    torch.testing.assert_close(model.get_parameter("head.weight"), head / 6.0)


@pytest.mark.usefixtures("sixfold")
def test_dampening_fades_towards_the_front(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ficabu, "accuracy", lambda model, samples: 0.5 if len(samples) == 6 else 0.9)
    model = network()
    before = copy.deepcopy(model)
    params = Params(threshold=2.0, front=9.0)
    ficabu.run(model, split(toy), params, torch.Generator())
    order = blocks([n for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1])
    weights = [n for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1]
    factors = [faded(params, depth, len(order)) for depth in range(len(order))]
    for each, positions in zip(factors, order, strict=True):
        for at in positions:
            old, new = (m.get_parameter(weights[at]) for m in (before, model))
            wanted = min(1.0, each.strength / 6.0) if each.threshold < 6.0 else 1.0
            torch.testing.assert_close(new, old * wanted)
    assert factors[0].threshold < 6.0 < factors[-1].threshold


@pytest.mark.usefixtures("sixfold")
def test_run_that_would_change_nothing_is_an_error(network: Network, toy: Toy) -> None:
    with pytest.raises(UnlearnError, match=r"no weight matters 7 times more .* unlearn.ficabu.threshold"):
        ficabu.run(network(), split(toy), Params(threshold=7.0), torch.Generator())
