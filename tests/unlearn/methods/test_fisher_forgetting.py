"""Fisher forgetting: how large the noise is and where."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.deploy import weight_scale
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.methods import fisher_forgetting
from qmu_edge.unlearn.methods.fisher_forgetting import Params
from qmu_edge.unlearn.registry import apply

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.fixture
def constant_fisher(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make every entry of the Fisher this value."""

    def make(fisher: float) -> None:
        monkeypatch.setattr(
            fisher_forgetting, "diagonal_fisher",
            lambda descent, *_, **__: torch.full((sum(p.numel() for p in descent.parameters),), fisher),
        )  # fmt: skip

    return make


def _run(model: Classifier, toy: Toy, classes: tuple[int, ...] = (), **params: Any) -> Classifier:
    data = ForgetRetain(forget=toy(3), retain=toy(8, seed=1), validation=toy(3, seed=2))
    generator = torch.Generator().manual_seed(0)
    return apply("fisher_forgetting", model, replace(data, classes=classes), Params(**params), generator)


def _noise(before: Classifier, after: Classifier) -> dict[str, Tensor]:
    changed = dict(weight_layers(after))
    return {n: (changed[n].weight - layer.weight).detach() for n, layer in weight_layers(before)}


@pytest.mark.parametrize("alpha", [1e-12, 1e-1])
def test_deviation_follows_the_fisher_up_to_a_part_of_the_step(
    network: Network, toy: Toy, constant_fisher: Callable[[float], None], alpha: float
) -> None:
    constant_fisher(0.5)
    model = network()
    standard = []
    for name, noise in _noise(model, _run(network(), toy, alpha=alpha, cap=0.25)).items():
        wanted = (alpha * (20.0 if name == "head" else 2.0)) ** 0.5
        step = weight_scale(model.get_submodule(name))
        deviation = step.new_tensor([min(wanted, 0.25 * s) for s in step.tolist()])
        standard.append((noise / deviation.view(-1, *(1,) * (noise.dim() - 1))).flatten())
        assert (deviation < wanted).all() == (alpha == 1e-1)
    assert float(torch.cat(standard).std()) == pytest.approx(1.0, rel=0.02)


def test_weights_that_the_retain_set_needs_keep_their_codes(
    network: Network, toy: Toy, constant_fisher: Callable[[float], None]
) -> None:
    constant_fisher(1e12)
    for noise in _noise(network(), _run(network(), toy)).values():
        assert float(noise.abs().max()) < 1e-7


def test_rows_of_forgotten_classes_start_anew(
    network: Network, toy: Toy, constant_fisher: Callable[[float], None]
) -> None:
    constant_fisher(1e12)
    rows = []
    for value in (0.0, 7.0):
        model = network()
        with torch.no_grad():
            model.get_parameter("head.weight")[1] += value
            model.get_parameter("head.bias").copy_(torch.tensor([1.0, 2.0 + value, 3.0]))
        result = _run(model, toy, classes=(1,))
        after = result.get_parameter("head.weight")
        rows.append(after[1].detach())
        assert result.get_parameter("head.bias").tolist() == [1.0, 0.0, 3.0]
        original = network().get_parameter("head.weight")
        torch.testing.assert_close(after[[0, 2]], original[[0, 2]], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(rows[0], rows[1])
    assert 0.02 < float(rows[0].std()) < 0.05
