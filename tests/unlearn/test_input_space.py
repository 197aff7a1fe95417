"""Covariances of layer inputs against the layers themselves, main directions, the stored file."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import quantized_weights, weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.unlearn.input_space import basis, covariances, inside, load, outside, save

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_covariances_give_the_energy_of_every_output_of_every_layer(
    architecture: str, network: Network, toy: Toy
) -> None:
    """For a row w of the weights, the sum of (w r)^2 is w C wT: stride, groups and order all matter."""
    model, samples = network(architecture=architecture), toy(3)
    found = covariances(model.train(), samples, Progress())
    assert model.training
    model.eval()
    energies: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def see(layer: nn.Module, _: Any, output: Tensor) -> None:
            bias = layer.bias if isinstance(layer, nn.Linear) else 0.0
            energies[name] = (output - bias).double().square().transpose(0, 1).flatten(1).sum(1)

        return see

    for name, layer in weight_layers(model):
        layer.register_forward_hook(watch(name))
    with torch.no_grad():
        model(samples.images().float() / 255.0)
    weights = quantized_weights(model)
    assert set(found) == set(energies)
    for name, covariance in found.items():
        assert covariance.dtype == torch.float64
        w = weights[f"{name}.weight"].double().reshape(len(covariance), -1, covariance.shape[1])
        energy = torch.einsum("god,gde,goe->go", w, covariance, w).flatten()
        torch.testing.assert_close(energy, energies[name], rtol=1e-4, atol=1e-6)


def test_covariances_add_up_over_images(network: Network, toy: Toy) -> None:
    model, samples = network(), toy(8)
    whole, first, rest = (
        covariances(model, samples.take(p), Progress())
        for p in (torch.arange(8), torch.arange(3), torch.arange(3, 8))
    )
    for name, covariance in whole.items():
        torch.testing.assert_close(covariance - first[name], rest[name], rtol=1e-9, atol=1e-9)


def test_directions_are_chosen_for_each_group(toy: Toy) -> None:
    """Singular values 4, 2, 1, 0 and 3, 0, 0, 0 and none: k is 2, 0 (all of it is more than .9) and 0."""
    diagonals = torch.tensor([[1.0, 16.0, 0.0, 4.0], [0.0, 0.0, 9.0, 0.0], [0.0] * 4])
    found = basis(torch.diag_embed(diagonals.double()), 0.9)
    assert found.shape == (3, 4, 2)
    projectors = found @ found.mT
    torch.testing.assert_close(projectors[0], torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0])))
    assert not projectors[1:].any()


def test_outside_and_inside_are_the_two_legs_of_a_change() -> None:
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    space = basis(r @ r.mT, 0.99)
    assert space.shape == (2, 9, 3)
    change = torch.randn(6, 1, 3, 3, generator=generator)
    across = outside(change, space)
    assert inside(across, space).abs().max() < 1e-5
    norms = [float(x.square().sum()) for x in (across, inside(change, space), change)]
    assert norms[0] + norms[1] == pytest.approx(norms[2], rel=1e-5)
    expected = change.view(2, 3, 9) - change.view(2, 3, 9) @ (space @ space.mT)
    torch.testing.assert_close(across, expected.view(6, 1, 3, 3))


@pytest.mark.parametrize(
    ("diagonal", "message"), [([1.0, -0.1], "do not cover the forget set"), ([1.0, torch.nan], "not finite")]
)
def test_what_is_no_covariance_is_refused(diagonal: list[float], message: str) -> None:
    with pytest.raises(UnlearnError, match=message):
        basis(torch.diag(torch.tensor(diagonal, dtype=torch.float64))[None], 0.9)


def test_file_belongs_to_one_network_and_damage_shows(network: Network, tmp_path: Path) -> None:
    path, model = tmp_path / "base", network()
    found = {"head": torch.rand(1, 3, 3, dtype=torch.float64)}
    assert load(None, model) is None
    assert load(path, model) is None
    save(path, model, found)
    kept = load(path, model)
    assert kept is not None
    assert torch.equal(kept.pop("head"), found["head"])
    assert not kept
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("head.bias")[0] += 1e-3
    assert load(path, other) is None
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert load(path, model) is None
