"""Averaged weights: against the sum written out, with statistics of their own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.train.average import Average, kept
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.fit import fit, predict
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

pytestmark = pytest.mark.usefixtures("shallow")

Toy = Callable[..., Samples]
Network = Callable[..., Classifier]


def test_the_average_is_the_weighted_sum_of_all_that_was(network: Network, toy: Toy) -> None:
    model, samples = network(), toy(24)
    settings = Optimization(lr=0.1, scale_lr=0.1, schedule="constant", precision="float32")
    descent = Descent(model.train(), settings, 12, Progress())
    average, seen = Average(descent, 0.4, {}), [[p.detach().clone() for p in descent.parameters]]

    def step(batch: object) -> Tensor:
        found: Tensor = cross_entropy(model)(batch)  # type: ignore[arg-type]
        return found

    for _ in range(6):
        for batch in samples.batches(12, torch.Generator().manual_seed(0)):
            descent.step(step, batch)
            seen.append([p.detach().clone() for p in descent.parameters])
    weights = [1.0]
    for number in range(12):
        share = min(0.4, (1 + number) / (10 + number))
        weights = [share * w for w in weights] + [1 - share]
    assert sum(weights) == pytest.approx(1) and weights[0] < 1e-3
    for number, value in enumerate(average.values):
        expected = sum(w * of[number].double() for w, of in zip(weights, seen, strict=True))
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(v, p) for v, p in zip(average.values, descent.parameters, strict=True))


def test_the_start_is_forgotten_soon_whatever_is_asked_for() -> None:
    left = 1.0
    for step in range(100):
        left *= kept(0.9999, step)
    assert left < 1e-6 and kept(0.9999, 10**6) == 0.9999


def test_what_is_released_has_statistics_of_its_own_weights(network: Network, toy: Toy) -> None:
    """Of the images that it was trained on, as a pass over them gives; not those of the last weights."""
    samples, model = toy(40), network()
    recipe = TrainRecipe(epochs=3, batch=20, lr=0.2, average=0.9, precision="float32")
    fit(model, samples, recipe, Augment(), progress=Progress())
    seen: dict[str, Tensor] = {}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    handles = [
        m.register_forward_pre_hook(lambda _, x, n=n: seen.setdefault(n, x[0].detach()))
        for n, m in norms.items()
    ]
    model.eval()
    for norm in norms.values():
        norm.train()
    before = {n: m.running_mean.clone() for n, m in norms.items() if m.running_mean is not None}
    with torch.no_grad():
        model(samples.images().float() / 255)
    for handle in handles:
        handle.remove()
    for name, mean in before.items():
        found = seen[name].double().mean((0, 2, 3))
        scale = seen[name].double().std((0, 2, 3))
        assert ((mean.double() - found).abs() < 0.02 * scale + 1e-3).all(), name


def test_a_network_of_averaged_weights_has_learned(network: Network, toy: Toy) -> None:
    samples, model = toy(48), network()
    recipe = TrainRecipe(epochs=12, batch=8, lr=0.05, average=0.9, precision="float32")
    fit(model, samples, recipe, Augment(pad=1), progress=Progress())
    assert (predict(model, samples).argmax(1) == samples.labels).float().mean() > 0.9
