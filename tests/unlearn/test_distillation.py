"""Teachers are copies that stay; the distance to them against the sum written out."""

import math
from collections.abc import Callable

import pytest
import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.unlearn.distillation import divergence, subset, teacher

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _softmax(row: list[float], t: float) -> list[float]:
    total = sum(math.exp(z / t) for z in row)
    return [math.exp(z / t) / total for z in row]


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_divergence_is_the_sum_written_out(t: float) -> None:
    target, logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).mul(3)
    rows = zip(target.tolist(), logits.tolist(), strict=True)
    each = [
        sum(p * math.log(p / q) for p, q in zip(_softmax(a, t), _softmax(b, t), strict=True)) for a, b in rows
    ]
    assert divergence(target, logits, t).item() == pytest.approx(t**2 * sum(each) / 5, rel=1e-5)


@pytest.mark.parametrize("quantizer", ["learned_step", "dsq"])
def test_teacher_computes_what_ships_and_stays_as_it_is(network: Network, toy: Toy, quantizer: str) -> None:
    model, samples = network(quantizer=quantizer), toy(6)
    images = next(samples.batches(6)).images
    frozen, shipped = teacher(model), predict(model, samples)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.equal(frozen(images), shipped)
    assert torch.equal(frozen(images), shipped)  # no statistics moved
    assert not frozen(images).requires_grad


def test_part_draws_each_image_once_and_never_none(toy: Toy) -> None:
    generator = torch.Generator().manual_seed(0)
    index = subset(toy(10), 0.3, generator).index
    assert len(index) == len(set(index.tolist())) == 3
    assert len(subset(toy(10), 0.0, generator)) == 1
    assert sorted(subset(toy(10), 1.0, generator).index.tolist()) == list(range(10))
