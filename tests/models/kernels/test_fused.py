"""The one-pass quantizer against Brevitas' own, and both against the formula written out."""

import pytest
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from brevitas.core.quant import IntQuant
from torch import Tensor

from qmu_edge.models.kernels import fused
from qmu_edge.models.kernels.fused import FusedIntQuant, Grid

GRIDS = [(True, True, 4), (True, False, 2), (False, False, 4), (True, True, 8), (False, False, 8)]
SCALES = [(), (3, 1, 1)]


def _run(
    quant: type[IntQuant], x: Tensor, scale: Tensor, grid: tuple[bool, bool, int], through: bool = False
) -> list[Tensor]:
    """Value, gradient of the value, gradient of the scale, under a gradient that is not constant."""
    signed, narrow, bits = grid
    module = quant(
        signed=signed,
        narrow_range=narrow,
        input_view_impl=Identity(),
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )
    module.clamp_through = through
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    y = module(scale, torch.zeros(()), torch.tensor(float(bits)), x)
    y.backward(torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x))
    assert x.grad is not None
    assert scale.grad is not None
    return [y.detach(), x.grad, scale.grad]


def _example(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values in range, saturated on both sides, on ties and on the edges of the range."""
    generator = torch.Generator().manual_seed(0)
    scale = 0.05 + torch.rand(shape, generator=generator, dtype=dtype)
    codes = 6 * torch.randn(3, 40, 5, generator=generator, dtype=dtype)
    codes[:, :20] = (2 * codes[:, :20]).round() / 2
    codes[:, 20] *= 40
    return codes * scale, scale


@pytest.mark.parametrize("shape", SCALES)
@pytest.mark.parametrize("grid", GRIDS)
def test_fused_computes_what_brevitas_does(shape: tuple[int, ...], grid: tuple[bool, bool, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        x, scale = _example(shape, dtype)
        ours, stock = _run(FusedIntQuant, x, scale, grid), _run(IntQuant, x, scale, grid)
        assert torch.equal(ours[0], stock[0])
        if dtype == torch.float64:  # theirs multiplies by the step and divides again
            torch.testing.assert_close(ours[1:], stock[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SCALES)
@pytest.mark.parametrize("grid", GRIDS)
def test_fused_computes_the_formula(shape: tuple[int, ...], grid: tuple[bool, bool, int]) -> None:
    signed, narrow, bits = grid
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    x, scale = _example(shape, torch.float64)
    y, x_grad, scale_grad = (t.flatten().tolist() for t in _run(FusedIntQuant, x, scale, grid))
    incoming = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).tolist()
    steps = scale.expand_as(x).flatten().tolist()
    totals = [0.0] * scale.numel()
    for i, (value, step) in enumerate(zip(x.flatten().tolist(), steps, strict=True)):
        rounded = round(value / step)  # Python rounds half to even as well
        code = min(max(rounded, low), high)
        inside = code == rounded
        assert y[i] == code * step
        assert x_grad[i] == (incoming[i] if inside else 0.0)
        channel = i * scale.numel() // x.numel()
        totals[channel] += incoming[i] * (code - value / step if inside else code)
    assert scale_grad == pytest.approx(totals, rel=1e-12, abs=1e-12)


def test_clamp_through_changes_the_gradient_of_saturated_values_alone() -> None:
    x, scale = torch.tensor([0.3, -9.0, 9.0, -3.5]), torch.tensor(0.5)
    values, gradient, step = _run(FusedIntQuant, x, scale, (True, True, 4), through=True)
    assert values.tolist() == [0.5, -3.5, 3.5, -3.5]
    assert gradient.tolist() == [-1.0, 0.0, 1.0, 2.0]  # what comes in
    clipped = _run(FusedIntQuant, x, scale, (True, True, 4))
    assert clipped[1].tolist() == [-1.0, 0.0, 0.0, 2.0]
    assert torch.equal(step, clipped[2])


def test_evaluation_takes_the_stock_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fused, "fake_quantize")
    module = FusedIntQuant(
        signed=True,
        narrow_range=True,
        input_view_impl=Identity(),
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )
    module.eval()
    y = module(torch.tensor(0.5), torch.zeros(()), torch.tensor(4.0), torch.tensor([0.7, 9.0]))
    assert y.tolist() == [0.5, 3.5]


def test_half_precision_sums_the_step_gradient_in_the_precision_of_the_step() -> None:
    x = torch.full((4096,), 0.3, dtype=torch.bfloat16, requires_grad=True)
    step = torch.tensor(1.0, requires_grad=True)
    fused.fake_quantize(x, step, Grid(-7, 7), x.dtype).sum().backward()  # type: ignore[no-untyped-call]
    assert step.grad is not None
    assert step.grad.dtype == torch.float32
    assert step.grad.item() == pytest.approx(-4096 * x[0].item(), rel=1e-3)


def test_a_rectifier_inside_is_a_rectifier_before() -> None:
    given, step = _example((), torch.float64)
    ours, ours_step = given.clone().requires_grad_(), step.clone().requires_grad_()
    fused.fake_quantize(ours, ours_step, Grid(0, 15, floor=0), ours.dtype).square().sum().backward()  # type: ignore[no-untyped-call]
    theirs, their_step = given.clone().requires_grad_(), step.clone().requires_grad_()
    fused.fake_quantize(theirs.relu(), their_step, Grid(0, 15), theirs.dtype).square().sum().backward()  # type: ignore[no-untyped-call]
    assert (given < 0).any()
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    assert torch.equal(ours_step.grad, their_step.grad)  # type: ignore[arg-type]


def test_second_derivatives_exist() -> None:
    x = torch.tensor([0.3, 0.7, 9.0], requires_grad=True)
    y = fused.fake_quantize(x, torch.tensor(0.5), Grid(0, 3), x.dtype)
    (slope,) = torch.autograd.grad((y * x).sum(), x, create_graph=True)  # y + x y'
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert curvature.tolist() == [2.0, 2.0, 0.0]


def test_a_step_has_second_derivatives() -> None:
    x, step = torch.tensor(0.3), torch.tensor(0.5, requires_grad=True)
    y = fused.fake_quantize(x, step, Grid(-7, 7), x.dtype)  # 1 step; x is 0.6
    (slope,) = torch.autograd.grad(y.square(), step, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, step)
    assert slope.item() == pytest.approx(2 * 0.5 * (1 - 0.6))
    assert curvature.item() == pytest.approx(2 * (1 - 0.6) ** 2 + 2 * 0.6)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_second_derivatives_do_not_depend_on_the_order_of_memory(power_of_two: bool) -> None:
    given, first = _example((), torch.float64)
    grid = Grid(-7, 7, smallest=1e-8, power_of_two=power_of_two)
    found = []
    for order in (Tensor.contiguous, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)):
        x, step = given.clone().requires_grad_(), first.clone().requires_grad_()
        y = fused.fake_quantize(order(x), step, grid, x.dtype)
        (slope,) = torch.autograd.grad(y.square().sum(), step, create_graph=True)
        found.append(torch.autograd.grad(slope, [x, step]))
    torch.testing.assert_close(found[1], found[0])
    assert found[0][0].any() and found[0][1].any()
