"""PGU: the loss, the invariant of the latent weights, the stored base, the removed outputs."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import quantized_weights, weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.unlearn.input_space import basis, covariances, inside, load, save
from qmu_edge.unlearn.methods import pgu
from qmu_edge.unlearn.methods.pgu import Params, forget_loss, remove_outputs, share_inside
from tests.unlearn.toys import split

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
SHORT = Params(epochs=3, batch=4, lr=0.1, gamma=0.9)


def _run(model: Classifier, data: ForgetRetain) -> Classifier:
    return pgu.run(model, data, SHORT, torch.Generator().manual_seed(0)).eval()


def test_loss_is_the_formula() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    entropy = -(p * p.log()).sum(1)
    expected = (-torch.log(1.05 - torch.tensor([0.7, 0.1])) - 0.2 * entropy).mean()
    torch.testing.assert_close(forget_loss(p.log(), torch.tensor([0, 1]), 0.05, 0.2), expected)


@pytest.mark.parametrize("classes", [(), (2,)])
def test_latent_change_is_across_the_retain_inputs_and_in_the_weights_only(
    classes: tuple[int, ...], network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgu, "remove_outputs", lambda *_: None)
    model, data = network(), replace(split(toy), classes=classes)
    before = copy.deepcopy(model.state_dict())
    spaces = {n: basis(c, 0.9) for n, c in covariances(model, data.retain, Progress()).items()}
    result = _run(model, data).state_dict()
    weights = {f"{n}.weight" for n in spaces}
    assert all(torch.equal(v, before[n]) for n, v in result.items() if n not in weights)
    for name, space in spaces.items():
        change = result[f"{name}.weight"] - before[f"{name}.weight"]
        assert change.any()
        assert float(inside(change, space).norm() / change.norm()) < 1e-3


def test_forget_images_are_those_of_the_space_not_augmented(network: Network, toy: Toy) -> None:
    plain, augmented = (
        _run(network(), replace(split(toy), augment=augment)) for augment in (Augment(), Augment(pad=2))
    )
    other = augmented.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.state_dict().items())


def test_stored_base_replaces_the_retain_images_and_is_renewed(
    network: Network, toy: Toy, tmp_path: Path
) -> None:
    data, base = split(toy), tmp_path / "base"
    model = network()
    save(base, model, covariances(model, data.forget + data.retain, Progress()))
    direct = _run(network(), replace(data, state=tmp_path / "none"))
    poison = toy(5, seed=9)
    result = _run(model, replace(data, retain=poison, state=base))
    for name, value in direct.state_dict().items():
        torch.testing.assert_close(result.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "none").exists()
    kept = load(base, result)
    assert kept is not None
    retain = covariances(network(), data.retain, Progress())
    assert all(torch.allclose(kept[n], c, rtol=1e-6, atol=1e-6) for n, c in retain.items())


def test_share_is_over_all_layers(network: Network) -> None:
    model = network()
    before = quantized_weights(model)
    with torch.no_grad():
        for _, layer in weight_layers(model):
            layer.weight.mul_(-1.0)
    after = quantized_weights(model)
    d = {n: w[0].numel() for n, w in before.items()}
    everything = {n: torch.eye(size)[None] for n, size in d.items()}
    first = {n: torch.eye(size)[None, :, :1] for n, size in d.items()}
    assert float(share_inside(before, after, everything)) == pytest.approx(1.0)
    part = sum(float((after[n] - w).flatten(1)[:, 0].square().sum()) for n, w in before.items())
    whole = sum(float((after[n] - w).square().sum()) for n, w in before.items())
    assert float(share_inside(before, after, first)) == pytest.approx((part / whole) ** 0.5)


def test_outputs_of_removed_classes_are_never_chosen(network: Network, toy: Toy) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("head.bias")[1] = 5.0
    assert set(predict(model, toy(9)).argmax(1).tolist()) == {1}
    remove_outputs(model, (1,))
    weight, bias = model.get_parameter("head.weight"), model.get_parameter("head.bias")
    torch.testing.assert_close(weight[1], (weight[0] + weight[2]) / 2)
    torch.testing.assert_close(bias[1], (bias[0] + bias[2]) / 2)
    assert 1 not in predict(model, toy(9)).argmax(1)
