"""Convolutions in integers against the same convolutions in floats."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.models.blocks import Blocks
from qmu_edge.models.kernels import integer_conv
from qmu_edge.models.kernels.fused import PLAIN, Grid, Passes, fake_quantize, grid_of, mark, using
from qmu_edge.models.kernels.native import native
from qmu_edge.models.kernels.steps import step_value
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples

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
    made = mark(fake_quantize(x.to(dtype), step, grid, dtype).detach(), step, grid)
    kernel = mark(fake_quantize(weight, STEPS, WEIGHT, dtype).detach(), STEPS, WEIGHT)
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
    monkeypatch.setattr(integer_conv, "FROM_PLACES", 1)
    monkeypatch.setitem(integer_conv.FROM_INTENSITY, dtype, 1)
    layer = _layer(**form)
    x, weight = _inputs(layer, dtype, grid)
    with using(integers):
        made = integer_conv.convolve(x, weight, layer)
    assert made is not None
    (exact, step), (kernel, steps) = _exact(x), _exact(weight)
    expected = layer._conv_forward(exact, kernel, None) * step * steps.view(16, 1, 1)
    off = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-22
    torch.testing.assert_close(made.double(), expected, rtol=off, atol=1e-9)
    stock = layer._conv_forward(x, weight, None)
    assert made.stride() == stock.stride()
    _require_slopes(layer, made, x, weight)


def _require_slopes(layer: nn.Conv2d, made: Tensor, x: Tensor, weight: Tensor) -> None:
    """Gradients are those of float64 but for the rounding of kernels, which add in any order.

    Products of two values of 8 or 24 bits are rounded to float32 at most once, each addition once more, by
    2^-24 of the sum of all magnitudes at most. The result is rounded to its type: by half of its last place,
    and twice that where a kernel stores the sums of two threads in it.
    """
    slopes = _slopes(made, x, weight)
    grad = torch.linspace(-1, 2, made.numel()).view_as(made).to(made.dtype)
    exact, sizes = (
        torch.autograd.grad(layer._conv_forward(of[0], of[1], None), of, g)
        for of, g in (
            ([t.detach().double().requires_grad_() for t in (x, weight)], grad.double()),
            ([t.detach().double().abs().requires_grad_() for t in (x, weight)], grad.double().abs()),
        )
    )
    outputs = made.shape[0] * made.shape[2] * made.shape[3]  # terms of a weight; an input has fewer
    last_place = 2.0**-7 if made.dtype == torch.bfloat16 else 2.0**-23
    for mine, slope, size in zip(slopes, exact, sizes, strict=True):
        assert mine.dtype == made.dtype
        off = last_place * slope.abs() + 2 * max(outputs, weight[:, 0].numel()) * 2.0**-24 * size
        assert ((mine.double() - slope).abs() <= off).all()


def _exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and steps."""
    known = grid_of(x)
    assert known is not None
    step = step_value(known.step, known.grid.smallest, power_of_two=known.grid.power_of_two)
    return (x.double() / step).round(), step.double()


def _slopes(y: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, of, torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype))


def test_groups_and_a_gradient_of_one_side_only(integers: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integer_conv.FROM_INTENSITY, torch.float32, 1)
    layer = _layer(groups=16, padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    x.requires_grad_(False)
    with using(integers):
        made = integer_conv.convolve(x, weight, layer)
    assert made is not None
    stock = F.conv2d(x, weight, padding=1, groups=16)
    torch.testing.assert_close(made, stock)
    assert torch.equal(*(_slopes(y, weight)[0] for y in (made, stock)))


@pytest.mark.parametrize(
    "form", [{}, {"stride": (2, 1), "padding": (1, 0)}, {"padding": 2, "dilation": (2, 3)},
             {"kernel_size": (1, 3)}], ids=str,
)  # fmt: skip
def test_a_product_makes_the_gradient_of_a_weight(form: dict[str, Any]) -> None:
    layer = _layer(in_channels=5, **form)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 9, 11, generator=generator, dtype=torch.float64)
    weight = layer.weight.detach().double().requires_grad_()
    y = layer._conv_forward(x, weight, None)
    (expected,) = _slopes(y, weight)
    grad = torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype)
    shape = integer_conv.Form(layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
    found = integer_conv.weight_gradient(grad, x, weight, shape)
    torch.testing.assert_close(found, expected)


def test_small_maps_have_the_same_gradients(integers: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _layer(stride=2, padding=1)
    x, weight = _inputs(layer, torch.bfloat16, UNSIGNED)
    monkeypatch.setattr(integer_conv, "FROM_PLACES", 1)
    monkeypatch.setitem(integer_conv.FROM_INTENSITY, torch.bfloat16, 1)
    calls: list[torch.Size] = []
    made_of = integer_conv.weight_gradient

    def counted(grad: Tensor, *rest: Any) -> Tensor:
        calls.append(grad.shape)
        return made_of(grad, *rest)

    monkeypatch.setattr(integer_conv, "weight_gradient", counted)
    with using(integers):
        made = integer_conv.convolve(x, weight, layer)
    assert made is not None
    stock = layer._conv_forward(x, weight, None)
    mine, theirs = (_slopes(y, x, weight) for y in (made, stock))
    assert torch.equal(mine[0], theirs[0])
    assert mine[1].stride() == theirs[1].stride()
    torch.testing.assert_close(mine[1], theirs[1], rtol=0.02, atol=0.02)
    with using(integers):
        fixed = integer_conv.convolve(x, mark(weight.detach(), STEPS, WEIGHT), layer)
    assert fixed is not None
    _slopes(fixed, x)
    assert calls == [(32, 16, 4, 4)]


def test_second_derivatives_are_those_of_the_convolution(integers: Passes) -> None:
    layer = _layer(padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    with using(integers):
        made = integer_conv.convolve(x, weight, layer)
    assert made is not None
    found = []
    for y in (made, F.conv2d(x, weight, padding=1)):
        (slope,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4 * float(found[1].detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("grid", "zero"), [(UNSIGNED, 0), (SIGNED, 128), (WEIGHT, 0), (Grid(0, 255), 0)])
@pytest.mark.parametrize("channels", [False, True])
def test_machine_code_finds_the_same_codes(
    integers: Passes, dtype: torch.dtype, grid: Grid, zero: int, channels: bool
) -> None:
    x = 30 * torch.randn(16, 3, 57, 61, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.view(-1)[:4] = torch.tensor([math.inf, -math.inf, -0.0, 0.15])
    x[3, 2, 1, 0] = math.nan
    step = STEPS if channels else torch.tensor(-0.3)
    assert integers.codes is not None
    (mine, values), (theirs, expected) = (
        f(x, step, grid, zero) for f in (integers.codes, integer_conv.codes)
    )
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    assert values.isnan().nonzero().tolist() == ([[3]] if channels else [[0]])


@pytest.mark.parametrize("broken", ["input", "weight"])
def test_one_nan_is_not_lost(integers: Passes, broken: str) -> None:
    layer = _layer(padding=1)
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    with torch.no_grad():
        (x if broken == "input" else weight)[5, 3, 1, 1] = math.nan
    x = mark(x.detach(), torch.tensor(0.3), UNSIGNED)
    weight = mark(weight.detach(), STEPS, WEIGHT)
    with using(integers):
        made = integer_conv.convolve(x, weight, layer)
    assert made is not None
    assert made.isnan().any(dim=(0, 2, 3)).tolist() == [broken == "input" or d == 5 for d in range(16)]


def test_a_grid_is_forgotten_with_the_values(integers: Passes) -> None:
    layer = _layer()
    x, weight = _inputs(layer, torch.float32, UNSIGNED)
    new = [x + 0.1, x[:, :, 1:], F.max_pool2d(x, 3, stride=1, padding=1), x.detach().clone()]
    changed = fake_quantize(x.detach(), torch.tensor(0.3), UNSIGNED, x.dtype)
    mark(changed, torch.tensor(0.3), UNSIGNED).add_(0.1)
    step = torch.tensor(0.3)
    moved = mark(x.detach() * 1.0, step, UNSIGNED)
    step.mul_(2)
    new.append(moved)
    with using(integers):
        assert integer_conv.convolve(x, weight, layer) is not None
        assert [integer_conv.convolve(other, weight, layer) for other in (*new, changed)] == [None] * 6
        assert integer_conv.convolve(x, weight * 1.0, layer) is None


def test_what_integers_cannot_or_should_not_do_is_left_to_floats(integers: Passes) -> None:
    x, weight = _inputs(_layer(), torch.float32, UNSIGNED)
    with using(integers):
        for layer in (_layer(bias=True), _layer(padding_mode="reflect"), _layer(padding="same")):
            assert integer_conv.convolve(x, weight, layer) is None
        assert (
            integer_conv.convolve(mark(x.detach()[0], torch.tensor(0.3), UNSIGNED), weight, _layer()) is None
        )
        unsigned = mark(weight.detach().clone(), STEPS, Grid(0, 255))
        assert integer_conv.convolve(x, unsigned, _layer()) is None
        few = mark(x.detach()[:4], torch.tensor(0.3), UNSIGNED)
        assert integer_conv.convolve(few, weight, _layer()) is None
        depthwise = mark(weight.detach()[:, :1].contiguous(), STEPS, WEIGHT)
        assert integer_conv.convolve(x, depthwise, _layer(out_channels=64, groups=64)) is None
    with using(PLAIN):
        assert integer_conv.convolve(x, weight, _layer()) is None
    with torch.inference_mode():
        assert grid_of(mark(torch.ones(3), torch.tensor(0.5), UNSIGNED)) is None


def test_codes_that_bfloat16_cannot_tell_apart_are_not_read_from_it() -> None:
    step = torch.tensor(0.013)
    cases = ((0, 127, False, True), (-128, 127, False, True), (0, 255, False, False), (0, 255, True, True))
    for low, high, power_of_two, expected in cases:
        grid = Grid(low, high, smallest=1e-8, power_of_two=power_of_two)
        true = torch.arange(low, high + 1)
        exact = true * step_value(step, 1e-8, power_of_two=power_of_two)
        x = fake_quantize(exact, step, grid, torch.bfloat16)
        assert (integer_conv.byte_grid(x) is not None) == expected
        read = integer_conv.codes(x, step, grid, -low)[0]
        assert torch.equal(read, (true - low).to(torch.uint8)) == expected
    for wide in (Grid(0, 256), Grid(-129, 3), Grid(-3, 128)):
        assert integer_conv.byte_grid(mark(torch.ones(3), step, wide)) is None


def test_a_processor_without_exact_integers_keeps_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    if not integer_conv.works():
        pytest.skip("a processor without VNNI")
    monkeypatch.setattr(integer_conv, "product", lambda x, weight, form, codes: F.conv2d(x, weight) - 1)
    assert not integer_conv.works.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not integer_conv.works.__wrapped__()


def test_finding_out_depends_on_nothing_and_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert integer_conv.works.__wrapped__() == integer_conv.works()
        native.__wrapped__()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def _step(model: Classifier, samples: Samples, passes: Passes, *, mixed: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(0)  # dropout
    (batch,) = samples.batches(60)
    with using(passes), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = F.cross_entropy(model.train()(batch.images), batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is convolved in integers from now on."""
    seen: list[Tensor] = []
    product = integer_conv.product

    def counted(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x)
        return product(x, *rest)

    monkeypatch.setattr(integer_conv, "product", counted)
    return seen


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_a_training_step_has_the_same_gradients(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    integers: Passes,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    monkeypatch.setitem(integer_conv.FROM_INTENSITY, torch.float32, 1)
    seen = _counted(monkeypatch)
    floats = integers._replace(codes=None)
    ours, theirs = (_step(network(architecture=architecture), toy(60), p) for p in (integers, floats))
    assert len(seen) >= 4
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        off = float((ours[name] - grad).norm() / grad.norm().clamp_min(1e-6))
        assert off < 1e-3, (name, off)


def test_mixed_precision_takes_integers_too(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    integers: Passes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(integer_conv.FROM_INTENSITY, torch.bfloat16, 1)
    seen = _counted(monkeypatch)
    floats = integers._replace(codes=None)
    # With 4 bits bfloat16 alone turns the gradient by 57 degrees.
    exact = {"weight_bits": 8, "activation_bits": 8}
    ours, theirs = (_step(network(**exact), toy(60), p, mixed=True) for p in (integers, floats))
    assert len(seen) >= 4
    assert {x.dtype for x in seen} == {torch.bfloat16}
    mine, other = (torch.cat([g.flatten() for g in found.values()]) for found in (ours, theirs))
    assert float(F.cosine_similarity(mine, other, dim=0)) > 0.9


def test_blocks_that_are_computed_again_take_integers_again(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    integers: Passes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _counted(monkeypatch)
    kept = _step(network(), toy(60), integers)
    once, model = len(seen), network()
    for module in model.modules():
        if isinstance(module, Blocks):
            module.recompute = True
    again = _step(model, toy(60), integers)
    assert len(seen) > 2 * once
    assert all(torch.equal(again[name], grad) for name, grad in kept.items())


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
