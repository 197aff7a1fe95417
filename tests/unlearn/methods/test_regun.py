"""ReGUn: the references class by class, and what both sets are trained towards."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import regun
from qmu_edge.unlearn.methods.regun import Params, references
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_reference_is_the_mean_prediction_on_images_of_the_class() -> None:
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 0, 2, 2, 0, 0, 0, 2])  # none of class 1
    found = references(logits, labels)
    p = logits.softmax(1)
    for c in (0, 2):
        torch.testing.assert_close(found[c], p[labels == c].mean(0))
    torch.testing.assert_close(found[1], p.mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_forget_images_follow_the_original_on_unseen_ones_and_retain_images_their_labels(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), split(toy)
    unseen = references(predict(model, data.validation), data.validation.labels)
    losses: list[Tensor] = []
    monkeypatch.setattr(Descent, "step", lambda self, loss, batch: losses.append(loss(batch).detach()))
    params = Params(epochs=1, batch=12, forget_weight=2.0)
    regun.run(model, data, params, torch.Generator().manual_seed(0))

    both = data.forget + data.retain
    log_p = model.train()(next(both.batches(12)).images).log_softmax(1)
    forget = -(unseen[data.forget.labels] * log_p[:4]).sum()
    retain = -log_p[4:].gather(1, data.retain.labels[:, None]).sum()
    torch.testing.assert_close(losses, [(2.0 * forget + retain) / 12])


def test_whole_classes_are_refused(network: Network, toy: Toy) -> None:
    data = replace(split(toy), classes=(0,))
    with pytest.raises(UnlearnError, match="method regun compares with unseen images of the same classes"):
        apply("regun", network(), data, Params(), torch.Generator())
