"""Random labels: uniform over all classes, drawn anew in each epoch, by the seed alone."""

from collections.abc import Callable

import pytest
import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.methods import random_label
from qmu_edge.unlearn.methods.random_label import Params, random_labels, run


def test_labels_are_uniform_and_decided_by_the_seed() -> None:
    found = random_labels(12_000, 4, torch.Generator().manual_seed(0))
    shares = torch.bincount(found, minlength=4) / 12_000
    assert bool(((shares - 0.25).abs() < 5 * (0.25 * 0.75 / 12_000) ** 0.5).all())
    assert torch.equal(found, random_labels(12_000, 4, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, random_labels(12_000, 4, torch.Generator().manual_seed(1)))


def test_each_epoch_has_labels_of_its_own(
    network: Callable[..., Classifier], toy: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(
        random_label, "epoch", lambda d, data, forget, *_, **__: seen.append(forget.labels.tolist())
    )
    data = ForgetRetain(forget=toy(30), retain=toy(6, seed=1), validation=toy(3, seed=2))
    run(network(), data, Params(epochs=3), torch.Generator().manual_seed(0))
    assert len(seen) == 3 == len({*map(tuple, seen)})
    assert data.forget.labels.tolist() == toy(30).labels.tolist()
