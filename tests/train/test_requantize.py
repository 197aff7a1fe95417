"""Re-quantization: retain images only, the obvious averages, the step of least rounding error."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
from brevitas.core.quant import RescalingIntQuant
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, parameter_group
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe
from qmu_edge.runtime.throughput import counting
from qmu_edge.train import requantize as module
from qmu_edge.train.batches import Samples
from qmu_edge.train.requantize import FACTORS, average_statistics, fit_activation_steps, requantize
from tests.networks import FACTORIES

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _scale(quantizer: RescalingIntQuant, x: Tensor) -> float:
    bits = quantizer.msb_clamp_bit_width_impl()
    scale: Tensor = quantizer.scaling_impl(x, quantizer.int_scaling_impl(bits))
    return scale.item()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("factor", [0.5, 0.75])
def test_each_activation_step_becomes_the_candidate_of_least_error(
    network: Network, toy: Toy, preset: str, factor: float
) -> None:
    model, samples = network(quantizer=preset), toy(12)
    quantizers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, RescalingIntQuant) and "act_quant" in name
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter_group(name, model) == "activation_scale":
                parameter.mul_(factor)
    inputs: dict[str, Tensor] = {}
    handles = [
        q.register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0].detach().clone()}))
        for name, q in quantizers.items()
    ]
    model(samples.images() / 255.0)
    for handle in handles:
        handle.remove()
    before = {name: _scale(q, inputs[name]) for name, q in quantizers.items()}

    fit_activation_steps(model, samples, 5, torch.Generator().manual_seed(0))

    chosen = set()
    for name, quantizer in quantizers.items():
        bits = quantizer.msb_clamp_bit_width_impl()
        low, high = (float(f(bits)) for f in (quantizer.int_quant.min_int, quantizer.int_quant.max_int))
        x = inputs[name].double()
        errors = {}
        for f in FACTORS:
            step = 2.0 ** math.floor(math.log2(before[name] * f / 0.75))  # the nearest power of two
            errors[step] = float(((x / step).round().clamp(low, high) * step - x).square().sum())
        found = _scale(quantizer, inputs[name])
        nearest = min(errors, key=lambda step: abs(step - found))
        assert found == pytest.approx(nearest, rel=1e-5)
        assert errors[nearest] <= min(errors.values()) * (1 + 1e-4) + 1e-12
        chosen.add(sorted(errors).index(nearest))
    assert len(chosen) > 1


def _dense() -> Classifier:
    """Linear layers with batch-norms of rows, (n, c)."""
    recipe = ModelRecipe(architecture="file", path="mine.py")
    model = build(recipe, Shape(channels=1, classes=3, size=8), 0, FACTORIES["Dense"])
    calibrate(model, [torch.rand(4, 1, 8, 8)])
    return model.eval()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.BatchNorm1d])
def test_batch_norm_statistics_are_the_plain_average(network: Network, toy: Toy, kind: Any) -> None:
    model, samples = network() if kind is nn.BatchNorm2d else _dense(), toy(23)
    for norm in (m for m in model.modules() if isinstance(m, kind)):
        norm.running_mean.fill_(7.0)
    average_statistics(model, samples, 8, torch.Generator().manual_seed(3), Progress(), 23)
    assert not any(m.training for m in model.modules())

    norms: dict[str, Any] = {name: m for name, m in model.named_modules() if isinstance(m, kind)}
    assert norms
    found = {name: (m.running_mean.clone(), m.running_var.clone()) for name, m in norms.items()}
    means: dict[str, list[Tensor]] = {name: [] for name in norms}
    variances: dict[str, list[Tensor]] = {name: [] for name in norms}

    def record(name: str, x: Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1)
        means[name].append(rows.mean(1))
        variances[name].append(rows.var(1))

    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, x, name=name: record(name, x[0].detach()))
        norm.train()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))[:21]  # three of even sizes
    for part in (order[:7], order[7:14], order[14:]):
        model(samples.images()[part] / 255.0)
    for name in norms:
        torch.testing.assert_close(found[name][0], torch.stack(means[name]).mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name][1], torch.stack(variances[name]).mean(0), rtol=1e-4, atol=1e-5)
        assert norms[name].momentum == 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_statistics_are_taken_quickly_and_are_the_same(network: Network, toy: Toy, preset: str) -> None:
    model, plain = network(quantizer=preset), network(quantizer=preset)
    average_statistics(model, toy(20), 8, torch.Generator().manual_seed(0), Progress(), 20)
    modes = [m.training for m in model.modules()]
    with patch("qmu_edge.train.requantize.quickly", lambda *_, **__: nullcontext()):
        average_statistics(plain, toy(20), 8, torch.Generator().manual_seed(0), Progress(), 20)
    assert modes == [m.training for m in plain.modules()] and not any(modes)
    found, expected = (m.state_dict() for m in (model, plain))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)

    by_brevitas = patch("brevitas.core.quant.RescalingIntQuant.forward", side_effect=AssertionError)
    if preset == "learned_step":
        with by_brevitas:
            average_statistics(model, toy(20), 8, torch.Generator().manual_seed(0), Progress(), 20)


@pytest.mark.parametrize("preset", PRESETS)
def test_only_retain_images_are_read_and_weights_stay(network: Network, toy: Toy, preset: str) -> None:
    everything = toy(30)
    retain = everything.take(torch.arange(0, 30, 2))
    before = network(quantizer=preset)
    first = requantize(network(quantizer=preset), retain, batch=5, seed=0, progress=Progress())
    everything.pool[1::2] = 255
    everything.labels[1::2] = 99
    again = requantize(network(quantizer=preset), retain, batch=5, seed=0, progress=Progress())

    state, old, new = (m.state_dict() for m in (again, before, first))
    assert all(torch.equal(v, state[k]) for k, v in new.items())
    changed = {n for n, v in new.items() if not torch.equal(v, old[n])}
    assert {n.rpartition(".")[2] for n in changed} <= {
        "running_mean", "running_var", "num_batches_tracked", "step", "value", "bias", "weight",
    }  # fmt: skip
    norms = {f"{n}.weight" for n, m in first.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n in changed if n.endswith("weight")} <= norms  # they settle; other weights stay
    assert any("act_quant" in n for n in changed)
    everything.pool[0::2] = 255
    poisoned = requantize(network(quantizer=preset), retain, batch=5, seed=0, progress=Progress())
    mean = "stem.0.1.running_mean"
    assert not torch.equal(poisoned.get_buffer(mean), first.get_buffer(mean))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", ["power_of_two", "free"])
def test_activation_steps_become_powers_of_two_unless_free(
    network: Network, toy: Toy, preset: str, steps: str
) -> None:
    model = network(quantizer=preset, activation_steps=steps)
    requantize(model, toy(12), batch=4, seed=0, progress=Progress())
    found = [
        torch.frexp(torch.tensor(_scale(m, torch.zeros(1))))[0].item()
        for n, m in model.named_modules()
        if isinstance(m, RescalingIntQuant) and "act_quant" in n
    ]
    assert len(found) > 15
    assert (set(found) == {0.5}) == (steps == "power_of_two")


def test_it_reads_so_many_images_at_any_size(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, images in (("FIRST_IMAGES", 6), ("STEP_IMAGES", 4), ("STATISTICS_IMAGES", 10)):
        monkeypatch.setattr(module, name, images)
    monkeypatch.setattr(module, "settle", lambda *_: None)
    read = []
    for size in (12, 60):
        model = network()  # its own calibration is not counted
        with counting(torch.device("cpu")) as throughput:
            requantize(model, toy(size), batch=2, seed=0, progress=Progress())
        read.append(throughput.spent(1)["images"])
    assert read == [20, 20]


def test_network_that_was_never_calibrated_is_refused(toy: Toy) -> None:
    model = build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), seed=0)
    with pytest.raises(UnlearnError, match="calibrate or train the network first"):
        requantize(model, toy(4), batch=4, seed=0, progress=Progress())


def test_no_retain_image_is_refused(network: Network, toy: Toy) -> None:
    with pytest.raises(UnlearnError, match="the retain set is empty"):
        requantize(network(), toy(0), batch=4, seed=0, progress=Progress())
