"""Convolutions in integers against the same convolutions in floats."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.data import Samples
from qmu_edge.models import integer
from qmu_edge.models.fused import PLAIN, Grid, Passes, fake_quantize, using
from qmu_edge.models.layers import Classifier
from qmu_edge.models.native import native
from qmu_edge.models.steps import step_value

UNSIGNED, SIGNED = Grid(0, 15, floor=0, smallest=1e-8, power_of_two=True), Grid(-127, 127, smallest=1e-8)
WEIGHT = Grid(-7, 7, smallest=1e-8)
STEPS = torch.linspace(-0.4, 1.2, 16).view(16, 1, 1, 1)  # a stored step may be negative


@pytest.fixture(scope="module")
def integers() -> Passes:
    passes = native()
    if passes is None or passes.codes is None:
        pytest.skip("no C++ compiler, or a processor without VNNI")
    return passes


def _layer(**changes: Any) -> nn.Conv2d:
    return nn.Conv2d(**{"in_channels": 64, "out_channels": 16, "kernel_size": 3, "bias": False, **changes})


def _inputs(layer: nn.Conv2d, dtype: torch.dtype, grid: Grid) -> tuple[Tensor, Tensor]:
    """An input of 32 images of 8x8 and a weight, both on grids and differentiable."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, layer.in_channels, 8, 8, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(layer.weight.shape, generator=generator).to(memory_format=torch.channels_last)
    step = torch.tensor(0.03 if grid.low < 0 else 0.3)
    made = integer.mark(fake_quantize(x.to(dtype), step, grid, dtype).detach(), step, grid)
    kernel = integer.mark(fake_quantize(weight, STEPS, WEIGHT, dtype).detach(), STEPS, WEIGHT)
    return made.requires_grad_(), kernel.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    "form", [{}, {"padding": 1}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2},
             {"kernel_size": 1}], ids=str,
)  # fmt: skip
def test_integers_compute_the_convolution(
    integers: Passes, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, grid: Grid, form: dict[str, Any]
) -> None:
    monkeypatch.setattr(integer, "FROM_PLACES", 1)
    monkeypatch.setitem(integer.FROM_PRODUCTS, dtype, 1)
    layer = _layer(**form)
    x, weight = _inputs(layer, dtype, grid)
    with using(integers):
        made = integer.convolve(x, weight, layer)
    assert made is not None
    (exact, step), (kernel, steps) = _exact(x), _exact(weight)
    expected = layer._conv_forward(exact, kernel, None) * step * steps.view(16, 1, 1)
    off = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-22
    torch.testing.assert_close(made.double(), expected, rtol=off, atol=1e-9)
    stock = layer._conv_forward(x, weight, None)
    assert made.stride() == stock.stride()
    for mine, theirs in zip(_slopes(made, x, weight), _slopes(stock, x, weight), strict=True):
        assert torch.equal(mine, theirs)


def _exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and steps."""
    known = integer.grid_of(x)
    assert known is not None
    step = step_value(known.step, known.grid.smallest, power_of_two=known.grid.power_of_two)
    return (x.double() / step).round(), step.double()


def _slopes(y: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, of, torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype))


def test_groups_and_a_gradient_of_one_side_only(integers: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integer.FROM_PRODUCTS, torch.float32, 1)
    layer = _layer(groups=16, padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    x.requires_grad_(False)
    with using(integers):
        made = integer.convolve(x, weight, layer)
    assert made is not None
    stock = F.conv2d(x, weight, padding=1, groups=16)
    torch.testing.assert_close(made, stock)
    assert torch.equal(*(_slopes(y, weight)[0] for y in (made, stock)))


def test_second_derivatives_are_those_of_the_convolution(integers: Passes) -> None:
    layer = _layer(padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    with using(integers):
        made = integer.convolve(x, weight, layer)
    assert made is not None
    found = []
    for y in (made, F.conv2d(x, weight, padding=1)):
        (slope,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4 * float(found[1].detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("grid", "zero"), [(UNSIGNED, 0), (SIGNED, 128), (Grid(0, 255), 0)])
@pytest.mark.parametrize("channels", [False, True])
def test_machine_code_finds_the_same_codes(
    integers: Passes, dtype: torch.dtype, grid: Grid, zero: int, channels: bool
) -> None:
    x = 30 * torch.randn(16, 3, 57, 61, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.view(-1)[:4] = torch.tensor([math.inf, -math.inf, -0.0, 0.15])
    x[3, 2, 1, 0] = math.nan
    step = STEPS if channels else torch.tensor(-0.3)
    assert integers.codes is not None
    (mine, values), (theirs, expected) = (f(x, step, grid, zero) for f in (integers.codes, integer.codes))
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    assert values.isnan().nonzero().tolist() == ([[3]] if channels else [[0]])


@pytest.mark.parametrize("broken", ["input", "weight"])
def test_one_nan_is_not_lost(integers: Passes, broken: str) -> None:
    layer = _layer(padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    with torch.no_grad():
        (x if broken == "input" else weight)[5, 3, 1, 1] = math.nan
    x = integer.mark(x.detach(), torch.tensor(0.3), UNSIGNED)
    weight = integer.mark(weight.detach(), STEPS, WEIGHT)
    with using(integers):
        made = integer.convolve(x, weight, layer)
    assert made is not None
    assert made.isnan().any(dim=(0, 2, 3)).tolist() == [broken == "input" or d == 5 for d in range(16)]


def test_a_grid_is_forgotten_with_the_values(integers: Passes) -> None:
    layer = _layer()
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    new = [x + 0.1, x[:, :, 1:], F.max_pool2d(x, 3, stride=1, padding=1), x.detach().clone()]
    changed = fake_quantize(x.detach(), torch.tensor(0.3), UNSIGNED, x.dtype)
    integer.mark(changed, torch.tensor(0.3), UNSIGNED).add_(0.1)
    with using(integers):
        assert integer.convolve(x, weight, layer) is not None
        assert [integer.convolve(other, weight, layer) for other in (*new, changed)] == [None] * 5
        assert integer.convolve(x, weight * 1.0, layer) is None


def test_what_integers_cannot_or_should_not_do_is_left_to_floats(integers: Passes) -> None:
    x, weight = _inputs(_layer(), torch.float32, UNSIGNED)
    with using(integers):
        for layer in (_layer(bias=True), _layer(padding_mode="reflect"), _layer(padding="same")):
            assert integer.convolve(x, weight, layer) is None
        few = integer.mark(x.detach()[:4], torch.tensor(0.3), UNSIGNED)
        assert integer.convolve(few, weight, _layer()) is None
        depthwise = integer.mark(weight.detach()[:, :1].contiguous(), STEPS, WEIGHT)
        assert integer.convolve(x, depthwise, _layer(out_channels=64, groups=64)) is None
    with using(PLAIN):
        assert integer.convolve(x, weight, _layer()) is None
    with torch.inference_mode():
        assert integer.grid_of(integer.mark(torch.ones(3), torch.tensor(0.5), UNSIGNED)) is None


def test_codes_that_bfloat16_cannot_tell_apart_are_not_read_from_it() -> None:
    step = torch.tensor(0.013)
    for bits, power_of_two, expected in ((7, False, True), (8, False, False), (8, True, True)):
        grid = Grid(0, 2**bits - 1, smallest=1e-8, power_of_two=power_of_two)
        true = torch.arange(2**bits) * step_value(step, 1e-8, power_of_two=power_of_two)
        x = fake_quantize(true, step, grid, torch.bfloat16)
        assert (integer.grid_of(integer.mark(x, step, grid)) is not None) == expected
        read = integer.codes(x, step, grid, 0)[0]
        assert torch.equal(read, torch.arange(2**bits, dtype=torch.uint8)) == expected
    wide = integer.mark(torch.ones(3), step, Grid(0, 511))
    assert integer.grid_of(wide) is None


def test_a_processor_without_exact_integers_keeps_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    if not integer.works():
        pytest.skip("a processor without VNNI")
    monkeypatch.setattr(integer, "product", lambda x, weight, layer, codes: F.conv2d(x, weight) - 1)
    assert not integer.works.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not integer.works.__wrapped__()


def _step(model: Classifier, samples: Samples, passes: Passes) -> dict[str, Tensor]:
    torch.manual_seed(0)  # dropout
    (batch,) = samples.batches(60)
    with using(passes):
        loss = F.cross_entropy(model.train()(batch.images), batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is convolved in integers from now on."""
    seen: list[Tensor] = []
    product = integer.product

    def counted(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x)
        return product(x, *rest)

    monkeypatch.setattr(integer, "product", counted)
    return seen


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_a_training_step_has_the_same_gradients(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    integers: Passes,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    monkeypatch.setitem(integer.FROM_PRODUCTS, torch.float32, 8)
    seen = _counted(monkeypatch)
    floats = integers._replace(codes=None)
    ours, theirs = (_step(network(architecture=architecture), toy(60), p) for p in (integers, floats))
    assert len(seen) >= 4
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        off = float((ours[name] - grad).norm() / grad.norm().clamp_min(1e-6))
        assert off < 1e-3, (name, off)


def test_soft_staircases_are_no_grids(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    integers: Passes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _counted(monkeypatch)
    _step(network(quantizer="dsq"), toy(60), integers)
    assert not seen
    _step(network(quantizer="pact"), toy(60), integers)
    assert seen
