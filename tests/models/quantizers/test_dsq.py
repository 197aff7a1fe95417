"""The soft staircase against the paper's form written out, its gradients, and the hard grid behind it."""

import math

import brevitas.nn as qnn
import pytest
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from torch import Tensor

from qmu_edge.models.quantizers.dsq import HARDEST, SoftIntQuant, soft_staircase
from qmu_edge.models.quantizers.presets import PRESETS


def paper(x: float, low: float, high: float, intervals: int, softness: float) -> float:
    """Piece by piece between `low` and `high`, in the units of x."""
    if not low < x < high:
        return min(max(x, low), high)
    width = (high - low) / intervals
    piece = min(int((x - low) / width), intervals - 1)
    middle = low + (piece + 0.5) * width
    scale, sharpness = 1 / (1 - softness), math.log(2 / softness - 1) / width
    phi = scale * math.tanh(sharpness * (x - middle))
    return low + width * (piece + (phi + 1) / 2)


def quantizer(softness: float = 0.2) -> SoftIntQuant:
    """Signed, in double precision."""
    quant = SoftIntQuant(
        narrow_range=False, signed=True, input_view_impl=Identity(), float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )  # fmt: skip
    with torch.no_grad():
        quant.softness.fill_(softness)
    made: SoftIntQuant = quant.double()
    return made


def run(quant: SoftIntQuant, x: Tensor, step: Tensor) -> Tensor:
    """At 3 bits: codes -4 to 3."""
    y: Tensor = quant(step, torch.zeros(()), torch.tensor(3.0), x)
    return y


@pytest.mark.parametrize("softness", [0.05, 0.2, 0.45])
def test_staircase_is_the_papers(softness: float) -> None:
    x = torch.linspace(-3, 3, 487, dtype=torch.float64)
    found = run(quantizer(softness), x, torch.tensor(0.6, dtype=torch.float64))
    expected = [paper(v, -4 * 0.6, 3 * 0.6, 7, softness) for v in x.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_gradients_of_value_step_and_softness_are_those_of_the_staircase() -> None:
    quant = quantizer()
    x = torch.tensor([-2.9, -0.7, 0.11, 0.4, 0.9, 1.3, 2.6], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, step: Tensor, softness: Tensor) -> Tensor:
        inputs = (step, torch.zeros(()), torch.tensor(3.0), x)
        y: Tensor = torch.func.functional_call(quant, {"softness": softness}, inputs)
        return y

    assert torch.autograd.gradcheck(loss, (x, step, quant.softness.detach().clone().requires_grad_()))


@pytest.mark.parametrize("place", ["unsigned", "signed"])
def test_hard_grid_in_evaluation_soft_one_while_training(place: str) -> None:
    layer = qnn.QuantIdentity(act_quant=getattr(PRESETS["dsq"], place), bit_width=4)
    quant = layer.act_quant.fused_activation_quant_proxy.tensor_quant
    with torch.no_grad():
        quant.scaling_impl.step.fill_(0.25)
    x = torch.linspace(-3, 5, 99)
    low, high = (0, 15) if place == "unsigned" else (-8, 7)
    hard = (x / 0.25).round().clamp(low, high) * 0.25
    assert torch.equal(layer.eval()(x), hard)
    soft = layer.train()(x).detach()
    assert not torch.equal(soft, hard) and (soft - hard).abs().max() <= 0.125 + 1e-6
    with torch.no_grad():
        quant.int_quant.softness.zero_()
    harder = layer(x).detach()  # and as soft as is left
    assert 0 < (harder - hard).abs().mean() < 0.6 * (soft - hard).abs().mean()
    assert torch.equal(harder, soft_staircase((x / 0.25).clamp(low, high), torch.tensor(HARDEST)) * 0.25)


def test_half_precision_keeps_its_type_and_sums_in_the_precision_of_the_step() -> None:
    quant = quantizer().float()
    x = torch.full((4096,), 0.3, dtype=torch.bfloat16, requires_grad=True)
    step = torch.tensor(1.0, requires_grad=True)
    y = run(quant, x, step)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.bfloat16
    one = x[:1].detach().double().requires_grad_()
    slope = torch.autograd.grad(soft_staircase(one, torch.tensor(0.2, dtype=torch.float64)).sum(), one)[0]
    by_step = soft_staircase(one, torch.tensor(0.2, dtype=torch.float64)) - one * slope
    assert step.grad is not None and float(step.grad) == pytest.approx(4096 * by_step.item(), rel=1e-3)
