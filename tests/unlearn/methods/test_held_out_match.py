"""Held-out matching: confidences against the definition, ranks, targets, and what a run makes of them."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.difficulty import UNKNOWN, confidence, ranked
from qmu_edge.train.fit import accuracy, predict
from qmu_edge.unlearn.methods import held_out_match
from qmu_edge.unlearn.methods.held_out_match import Params, ease, targets, unseen_odds
from qmu_edge.unlearn.registry import apply

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_targets_have_these_odds_and_share_the_rest_as_the_original() -> None:
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    odds = torch.tensor([-torch.inf, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64)
    found = targets(logits, labels, odds)
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    for row, z, label, o in zip(found, logits, labels.tolist(), odds.tolist(), strict=True):
        assert float(row[label]) == pytest.approx(1 / (1 + math.exp(-o)) if math.isfinite(o) else 0.0)
        others = [k for k in range(4) if k != label]
        shares = row[others] / row[others].sum()
        torch.testing.assert_close(shares, z.softmax(0)[others] / z.softmax(0)[others].sum())


def _data(toy: Toy) -> ForgetRetain:
    everything = toy(60)
    forget, retain = everything.take(torch.arange(9)), everything.take(torch.arange(9, 60))
    return ForgetRetain(forget=forget, retain=retain, validation=toy(30, seed=5))


def test_each_class_is_matched_with_its_own_images(network: Network, toy: Toy) -> None:
    model, data = network(), _data(toy)
    share = ease(model, data, predict(model, data.forget), Params(), torch.Generator())
    odds = unseen_odds(model, data, share)
    unseen = confidence(predict(model, data.validation), data.validation.labels)
    for label in range(3):
        ours, theirs = data.forget.labels == label, data.validation.labels == label
        assert set(odds[ours].tolist()) <= set(unseen[theirs].tolist())
    # A class of which nothing was held out takes the confidences of all.
    some = replace(data, validation=data.validation.take(torch.nonzero(data.validation.labels < 2)[:, 0]))
    odds = unseen_odds(model, some, share)
    left = unseen[data.validation.labels < 2]
    assert set(odds[data.forget.labels == 2].tolist()) <= set(left.tolist())


def test_forgotten_classes_get_probability_zero_and_open_no_validation_image(
    network: Network, toy: Toy
) -> None:
    data = _data(toy)
    ours = data.retain.labels == 1
    whole = replace(
        data, classes=(1,), forget=data.retain.take(torch.nonzero(ours)[:, 0]),
        retain=data.retain.take(torch.nonzero(~ours)[:, 0]), validation=toy(0),
    )  # fmt: skip
    odds = unseen_odds(network(), whole, torch.zeros(len(whole.forget)))
    assert odds.tolist() == [-math.inf] * len(whole.forget)
    params = Params(epochs=4, batch=16, lr=0.1)
    result = apply("held_out_match", network(), whole, params, torch.Generator().manual_seed(0))
    assert accuracy(result, whole.forget) < 0.2 < 0.6 < accuracy(result, whole.retain)


def test_forgetting_samples_needs_images_never_seen(network: Network, toy: Toy) -> None:
    data = replace(_data(toy), validation=toy(0))
    with pytest.raises(UnlearnError, match="the validation set is empty"):
        apply("held_out_match", network(), data, Params(), torch.Generator())


@pytest.mark.slow
def test_confidences_of_forget_images_move_to_those_of_unseen_ones(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the targets are: here, that every forget image is taken for another class."""
    data = _data(toy)
    monkeypatch.setattr(held_out_match, "unseen_odds", lambda model, data, share: torch.full((9,), -3.0))
    params = Params(epochs=30, batch=12, lr=0.1)
    result = apply("held_out_match", network(), data, params, torch.Generator().manual_seed(0))
    forget = confidence(predict(result, data.forget), data.forget.labels)
    retain = confidence(predict(result, data.retain), data.retain.labels)
    assert forget.median() < 0.0 < 0.5 < retain.median()


def test_every_epoch_matches_the_network_as_it_is_by_then(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def odds(model: Classifier, data: ForgetRetain, share: torch.Tensor) -> torch.Tensor:
        seen.append(float(predict(model, data.validation).sum()))
        return torch.zeros(len(share))

    monkeypatch.setattr(held_out_match, "unseen_odds", odds)
    apply("held_out_match", network(), _data(toy), Params(epochs=3, batch=12), torch.Generator())
    assert len(set(seen)) == 3


def test_hard_images_are_told_by_several_views_where_training_noted_nothing(
    network: Network, toy: Toy
) -> None:
    model, data = network(), _data(toy)
    logits, labels = predict(model, data.forget), data.forget.labels
    alone = ease(model, data, logits, Params(), torch.Generator())
    assert torch.equal(alone, ranked(confidence(logits, labels), labels))
    flipped = replace(data, augment=Augment(flip=True))
    assert not torch.equal(ease(model, flipped, logits, Params(), torch.Generator().manual_seed(0)), alone)


@pytest.mark.parametrize("unknown", [False, True])
def test_what_training_noted_says_which_images_are_hard(network: Network, toy: Toy, unknown: bool) -> None:
    model, data = network(), _data(toy)
    logits, labels = predict(model, data.forget), data.forget.labels
    alone = ease(model, data, logits, Params(), torch.Generator())
    model.difficulty = torch.arange(60, dtype=torch.uint8).flip(0)  # the first images were the easiest
    if unknown:  # of one image: then nothing is said of any
        model.difficulty[3] = UNKNOWN
        assert torch.equal(ease(model, data, logits, Params(), torch.Generator()), alone)
        return
    share = ease(model, data, logits, Params(), torch.Generator())
    assert share.min() > 0.9  # all that is retained was harder
    assert torch.equal(ease(model, data, logits, Params(noted=False), torch.Generator()), alone)
    odds = unseen_odds(model, data, share)
    unseen = confidence(predict(model, data.validation), data.validation.labels)
    for label in range(3):
        best = unseen[data.validation.labels == label].quantile(0.9)
        assert (odds[labels == label] >= best).all()


def test_a_class_forgotten_whole_is_not_looked_at(network: Network, toy: Toy) -> None:
    data = replace(_data(toy), classes=(1,), augment=Augment(flip=True))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    ease(network(), data, torch.zeros(9, 3), Params(), generator)
    assert torch.equal(generator.get_state(), before)
