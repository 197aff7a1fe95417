"""Boundary shrink: the nearest class against a loop over images, and where it leads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, Batch, ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import train_mode
from qmu_edge.unlearn.methods import boundary_shrink
from qmu_edge.unlearn.methods.boundary_shrink import Params, nearest_labels

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.mark.parametrize("radius", [0.05, 0.5])
def test_nearest_label_is_what_a_loop_in_evaluation_mode_finds(
    network: Network, toy: Toy, radius: float
) -> None:
    model = network(activation_bits="float")
    (batch,) = toy(9).batches(9)
    train_mode(model, statistics=False)
    found = nearest_labels(model, batch, radius).tolist()
    assert all(p.grad is None for p in model.parameters())

    model.eval()
    for image, label, nearest in zip(batch.images.detach(), batch.labels.tolist(), found, strict=True):
        pixels = image[None].clone().requires_grad_()
        F.cross_entropy(model(pixels), torch.tensor([label])).backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        moved = (image[None] + radius * pixels.grad.sign()).clamp(0.0, 1.0)
        logits = model(moved)[0].tolist()
        others = [k for k in range(3) if k != label]
        assert nearest == max(others, key=lambda k: logits[k])


def test_all_epochs_train_towards_the_classes_that_the_original_finds(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, forget, seen = network(), toy(6), []
    train_mode(model, statistics=False)
    (plain,) = forget.batches(6)
    expected = nearest_labels(model, plain, 0.1)
    before, original = predict(model, forget), Samples.batches

    def batches(self: Samples, *args: Any) -> Any:
        b: Batch
        for b in original(self, *args):
            seen.append((b.labels, expected[b.positions], len(args) > 1))
            yield b

    monkeypatch.setattr(Samples, "batches", batches)
    data = ForgetRetain(forget=forget, retain=toy(3), validation=toy(3), augment=Augment(pad=1))
    result = boundary_shrink.run(
        model, data, Params(epochs=15, batch=6, lr=0.02), torch.Generator().manual_seed(0)
    )
    assert [trained for *_, trained in seen] == [False] + [True] * 15
    assert all(torch.equal(labels, wanted) for labels, wanted, trained in seen if trained)
    after = F.cross_entropy(predict(result, forget), expected)
    assert float(after) < 0.8 * float(F.cross_entropy(before, expected))
