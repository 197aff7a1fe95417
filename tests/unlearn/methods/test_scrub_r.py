"""SCRUB with rewind: order and direction of its passes, and which epoch it goes back to."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Batch, ForgetRetain, Samples
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import scrub_r
from qmu_edge.unlearn.methods.scrub_r import Params, matched_error
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _watch(monkeypatch: pytest.MonkeyPatch, model: Classifier) -> list[tuple[bool, int, float]]:
    """Of every step from now on: whether batch-norm statistics move, the number of images, and the loss."""
    step, seen = Descent.step, []
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))

    def spy(self: Descent, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        def watched(batch: Batch) -> Tensor:
            value = loss(batch)
            seen.append((norm.training, len(batch), value.item()))
            return value

        step(self, watched, batch)

    monkeypatch.setattr(Descent, "step", spy)
    return seen


def test_forget_passes_climb_and_every_stored_network_ends_with_a_retain_pass(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    seen = _watch(monkeypatch, model)
    ends: list[Classifier] = []

    def first(stored: list[Classifier], data: ForgetRetain) -> Classifier:
        ends.extend(stored)
        return stored[0]

    monkeypatch.setattr(scrub_r, "_nearest", first)
    data, params = split(toy), Params(epochs=3, forget_epochs=2, batch=8, lr=0.05)
    result = scrub_r.run(model, data, params, torch.Generator().manual_seed(0))
    forget, retain = (True, 4), (True, 8)
    assert [s[:2] for s in seen] == [forget, retain, forget, retain, retain]
    assert all(value > 0 if size == 8 else value < 0 for _, size, value in seen)
    assert result is ends[0]
    heads = [end.get_parameter("head.weight").tolist() for end in ends]
    assert len(heads) == 3
    assert all(a != b for a, b in combinations(heads, 2))


def test_classes_are_served_without_rewind_and_without_validation_images(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    seen = _watch(monkeypatch, model)
    data = replace(split(toy), classes=(2,), validation=toy(0))
    params = Params(epochs=2, forget_epochs=1, batch=8)
    assert apply("scrub_r", model, data, params, torch.Generator()) is model
    assert [size for _, size, _ in seen] == [4, 8, 8]


def test_statistics_of_a_single_image_do_not_move(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    seen = _watch(monkeypatch, model)
    params = Params(epochs=1, batch=8)
    scrub_r.run(model, split(toy, forget=1), params, torch.Generator().manual_seed(0))
    assert [s[:2] for s in seen] == [(False, 1), (True, 6), (True, 5)]


def test_nearest_is_measured_against_the_last_epoch_on_similar_unseen_images(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = split(toy)
    stored = [network() for _ in range(3)]
    forget = [[1, 2, 0, 1], [0, 2, 0, 1], [0, 1, 2, 0]]  # 4, 3, 0 wrong; labels are 0, 1, 2, 0
    unseen = [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2], [1, 1, 0, 0, 1, 0]]  # last: class 0 half, 2 all wrong

    def scripted(model: Classifier, samples: Samples) -> Tensor:
        (at,) = [i for i, m in enumerate(stored) if m is model]
        return torch.eye(3)[(forget if samples is data.forget else unseen)[at]]

    monkeypatch.setattr(scrub_r, "predict", scripted)
    # The last epoch is wrong in 2/4 * 1/2 + 1/4 * 0 + 1/4 * 1 = 0.5 of them: 0.75 is nearest.
    assert scrub_r._nearest(stored, data) is stored[1]


def test_matched_error_weighs_classes_like_the_forget_set() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 4, generator=generator), torch.arange(40) % 3
    like = torch.tensor([0, 0, 0, 1, 3, 3])  # there is no image of class 3
    wrong = (logits.argmax(1) != labels).tolist()
    share = {c: sum(wrong[c::3]) / len(wrong[c::3]) for c in (0, 1)}
    assert matched_error(logits, labels, like) == pytest.approx((3 * share[0] + share[1]) / 4)


def test_validation_set_that_says_nothing_is_refused(network: Network, toy: Toy) -> None:
    data = split(toy)
    generator = torch.Generator()
    with pytest.raises(UnlearnError, match="the validation set is empty"):
        apply("scrub_r", network(), replace(data, validation=toy(0)), Params(), generator)
    strangers = data.validation.take(torch.tensor([2, 5]))
    data = replace(data, forget=data.forget.take(torch.tensor([0, 1])), validation=strangers)
    with pytest.raises(UnlearnError, match="holds no image of the forget set's classes"):
        apply("scrub_r", network(), data, Params(), generator)
