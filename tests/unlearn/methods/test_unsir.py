"""UNSIR: the noise, the retain subset, and what the network is shown while it is impaired."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.loop import train_mode
from qmu_edge.unlearn.methods import unsir
from qmu_edge.unlearn.methods.unsir import Params, class_noise, impairing, noise_loss, per_class

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
SMALL = Params(noise_images=6, noise_steps=8, copies=3, batch=8, penalty=0.001)


def test_noise_loss_is_the_penalty_less_the_cross_entropy() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
    noise = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).view(2, 1, 1, 2)
    expected = 0.1 * (5.0 + 9.0) / 2 + (torch.tensor([0.5, 0.2]).log().mean())
    torch.testing.assert_close(noise_loss(logits, 0, noise, 0.1), expected)


def test_noise_is_unlike_the_class_within_the_pixel_range_and_leaves_the_network(network: Network) -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_mode(model, statistics=False)
    losses, seen = [], []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for steps in (1, 40):
        generator = torch.Generator().manual_seed(0)
        params = replace(SMALL, noise_steps=steps)
        noise = class_noise(model, 1, torch.Size((1, 8, 8)), params, generator)
        assert noise.shape == (6, 1, 8, 8)
        assert 0.0 <= float(noise.min()) < float(noise.max()) <= 1.0
        losses.append(float(F.cross_entropy(model(noise).detach(), torch.ones(6, dtype=torch.int64))))
    assert losses[1] > losses[0]
    assert all(float((shown - 0.5).abs().max()) <= 0.5 + 1e-6 for shown in seen)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_subset_has_so_many_of_each_class_drawn_at_random() -> None:
    labels = torch.tensor([7, 0, 7, 7, 0, 3, 7, 0])
    drawn = set()
    for seed in range(40):
        found = per_class(labels, 2, torch.Generator().manual_seed(seed)).tolist()
        assert len(set(found)) == len(found)
        assert sorted(labels[found].tolist()) == [0, 0, 3, 7, 7]
        drawn.update(found)
    assert drawn == set(range(8))


def test_impairing_shows_all_noise_under_its_own_class_and_the_retain_images(toy: Toy) -> None:
    noise = torch.arange(2 * 5).view(2, 5, 1, 1, 1).expand(2, 5, 1, 8, 8) / 255.0
    retain = toy(9).take(torch.tensor([3, 8]))
    mixed = impairing(noise, (2, 0), retain, 3)
    assert len(mixed) == 2 * 5 * 3 + 2
    shown = [
        (int(i[0, 0, 0]), int(label)) for i, label in zip(mixed.images()[:30], mixed.labels, strict=False)
    ]
    assert sorted(shown) == sorted([(n, 2 if n < 5 else 0) for n in range(10)] * 3)
    assert torch.equal(mixed.images()[30:], retain.images())
    assert torch.equal(mixed.labels[30:], retain.labels)


def test_noise_only_impairs_and_repair_is_augmented(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, seen = toy(12), []
    ours = everything.labels == 2
    data = ForgetRetain(
        forget=everything.take(torch.nonzero(ours)[:, 0]), retain=everything.take(torch.nonzero(~ours)[:, 0]),
        validation=toy(3), classes=(2,), augment=Augment(pad=1),
    )  # fmt: skip
    original = Samples.batches

    def batches(self: Samples, size: int, generator: Any = None, augment: Any = None) -> Any:
        seen.append((len(self), int((self.labels == 2).sum()), augment))
        yield from original(self, size, generator, augment)

    monkeypatch.setattr(Samples, "batches", batches)
    params = replace(SMALL, retain_per_class=3, repair_epochs=2)
    unsir.run(network(), data, params, torch.Generator().manual_seed(0))
    assert seen == [(18 + 6, 18, Augment()), *[(6, 0, Augment(pad=1))] * 2]
