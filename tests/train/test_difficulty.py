"""How hard images are: formulas against their definitions, and what a training notes."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.difficulty import (
    EASIEST,
    UNKNOWN,
    Difficulty,
    confidence,
    ease_of,
    harder,
    ranked,
    without,
)
from qmu_edge.train.fit import fit
from qmu_edge.unlearn.registry import apply, parameters

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
FLOATS = st.floats(-20, 20, width=32)
BYTES = st.lists(st.integers(0, EASIEST), min_size=1, max_size=30)


@given(st.lists(FLOATS, min_size=3, max_size=3), st.integers(0, 2))
def test_confidence_is_the_log_odds(logits: list[float], label: int) -> None:
    (found,) = confidence(torch.tensor([logits]).double(), torch.tensor([label])).tolist()
    total = sum(math.exp(z) for z in logits)
    p = math.exp(logits[label]) / total
    rest = sum(math.exp(z) for k, z in enumerate(logits) if k != label) / total
    assert found == pytest.approx(math.log(p) - math.log(rest), abs=1e-9)


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30, unique=True), st.lists(FLOATS, min_size=1, max_size=30))
def test_ranks_keep_the_order_and_take_the_distribution(own: list[float], unseen: list[float]) -> None:
    share = ranked(torch.tensor(own), torch.zeros(len(own), dtype=torch.int64))
    found = torch.tensor(unseen).quantile(share, interpolation="nearest").tolist()
    assert set(found) <= set(torch.tensor(unseen).tolist())
    in_order = [f for _, f in sorted(zip(own, found, strict=True))]
    assert in_order == sorted(in_order)
    if len(own) == len(unseen):
        assert in_order == sorted(torch.tensor(unseen).tolist())


@given(BYTES, BYTES)
def test_harder_counts_one_by_one(own: list[int], among: list[int]) -> None:
    found = harder(*(torch.tensor(v, dtype=torch.uint8) for v in (own, among))).tolist()
    for value, share in zip(own, found, strict=True):
        count = sum(other < value for other in among) + (sum(other == value for other in among) + 1) / 2
        assert share == pytest.approx(count / (len(among) + 1))


def _trained(network: Network, samples: Samples, resume: Path | None = None) -> Classifier:
    train = TrainRecipe(epochs=4, batch=16, lr=0.05)
    model = network()
    fit(model, samples, train, Augment(), progress=Progress(), resume=resume)
    return model


@pytest.mark.parametrize(
    ("epochs", "asked"), [(1, [0]), (2, [0]), (4, [1]), (12, [1, 2, 3]), (30, [*range(1, 9)])]
)
def test_the_first_quarter_is_asked(toy: Toy, epochs: int, asked: list[int]) -> None:
    assert [*Difficulty(toy(3), epochs).epochs] == asked


def test_training_notes_what_it_thinks_of_each_image(network: Network, toy: Toy) -> None:
    everything = toy(60)
    labels = everything.labels.clone()
    labels[:10] = (labels[:10] + 1) % 3  # wrong ones are the hardest to learn
    samples = everything.relabelled(labels).take(torch.arange(50))
    noted = _trained(network, samples).difficulty
    assert noted is not None and noted.dtype == torch.uint8 and noted.shape == (60,)
    assert (noted[50:] == UNKNOWN).all() and (noted[:50] != UNKNOWN).all()
    assert noted[:10].float().mean() < 60 < 100 < noted[10:50].float().mean()


def test_what_is_noted_travels_with_the_network_and_forgets_what_is_forgotten(
    network: Network, toy: Toy
) -> None:
    samples, origin = toy(60), checkpoint.Origin(class_names=("a", "b", "c"), size=8, split="")
    model = _trained(network, samples)
    stored, _ = checkpoint.loads(checkpoint.dumps(model, origin), "a network")
    noted, kept = model.difficulty, stored.difficulty
    assert noted is not None and kept is not None and torch.equal(kept, noted)
    forget, retain = samples.take(torch.arange(9)), samples.take(torch.arange(9, 60))
    data = ForgetRetain(forget=forget, retain=retain, validation=toy(30, seed=5))
    for name in ("finetune", "retrain"):
        params = parameters(name, {}, TrainRecipe(epochs=1, batch=16))
        changed = apply(name, stored, data, params, torch.Generator().manual_seed(0))
        assert changed.difficulty is not None
        assert (changed.difficulty[:9] == UNKNOWN).all() and (changed.difficulty[9:] != UNKNOWN).all()
    assert stored.difficulty is not None and torch.equal(stored.difficulty[9:], noted[9:])


def test_an_exact_network_takes_no_notes_of_the_original(network: Network, toy: Toy) -> None:
    """They are ranks among images that it never saw; where it has none of its own, it has none."""
    samples, model = toy(30), network()
    model.difficulty = torch.zeros(30, dtype=torch.uint8)
    forget, retain = samples.take(torch.arange(9)), samples.take(torch.arange(9, 30))
    data = ForgetRetain(forget=forget, retain=retain, validation=toy(30, seed=5))
    params = parameters("retrain", {}, TrainRecipe(epochs=1, batch=16, mixup=0.5))
    assert apply("retrain", model, data, params, torch.Generator().manual_seed(0)).difficulty is None


def test_nothing_is_said_where_something_is_not_known(toy: Toy) -> None:
    samples = toy(60)
    known = torch.arange(60, dtype=torch.uint8)
    own, others = samples.take(torch.arange(9)), samples.take(torch.arange(9, 60))
    assert ease_of(known, own, others) is not None
    assert ease_of(None, own, others) is None
    assert ease_of(known[:50], own, others) is None  # of another dataset
    assert ease_of(without(known, own), own, others) is None
    assert ease_of(without(known, others), own, others) is None
