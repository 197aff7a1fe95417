"""PACT against its formula by autograd: gradients, the way of alpha in one step, the penalty."""

from collections.abc import Callable

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor

from qmu_edge.io.progress import Progress
from qmu_edge.models.kernels.fused import Grid
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers.pact import ClippedQuantize
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.train.loop import Descent, Optimization


def pact(x: Tensor, alpha: Tensor, largest: int) -> Tensor:
    """The definition for unsigned activations, rounded straight through."""
    clipped = torch.where(x >= alpha, alpha, x.clamp_min(0.0))
    rounded = (clipped * largest / alpha).round() * alpha / largest
    return clipped + (rounded - clipped).detach()


def _example() -> tuple[Tensor, Tensor]:
    """Values below zero, between the ends, at alpha = 3.75, above it, and below it where they round to it."""
    x = torch.tensor([-1.0, 0.05, 0.7, 1.31, 2.2, 3.7, 3.75, 3.8, 8.0], dtype=torch.float64)
    return x, torch.linspace(-1, 2, len(x), dtype=torch.float64)


def test_value_and_gradients_are_those_of_the_definition() -> None:
    x, incoming = _example()
    alpha = torch.tensor(3.75, dtype=torch.float64, requires_grad=True)
    theirs_x = x.clone().requires_grad_()
    theirs = pact(theirs_x, alpha, 15)
    theirs.backward(incoming)  # type: ignore[no-untyped-call]
    ours_x, step = x.clone().requires_grad_(), torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    ours = ClippedQuantize.apply(ours_x, step, Grid(0.0, 15.0), torch.float64)  # type: ignore[no-untyped-call]
    ours.backward(incoming)
    assert alpha.grad is not None and step.grad is not None and ours_x.grad is not None
    torch.testing.assert_close(ours, theirs)
    assert theirs_x.grad is not None
    assert torch.equal(ours_x.grad, theirs_x.grad)
    assert alpha.grad == incoming[-3:].sum()  # 1 from alpha upwards, and nothing of what is below
    torch.testing.assert_close(step.grad, 15 * alpha.grad)


def test_one_step_of_descent_moves_alpha_as_if_it_were_the_parameter() -> None:
    x, incoming = (t.float() for t in _example())
    layer = qnn.QuantReLU(act_quant=PRESETS["pact"].unsigned, bit_width=4)
    level = layer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
    with torch.no_grad():
        level.step.fill_(0.25)
    optimizer = torch.optim.SGD([level.step], lr=0.1, weight_decay=0.01)
    layer(x).backward(incoming)
    optimizer.step()
    expected = 3.75 - 0.1 * (float(incoming[-3:].sum()) + 0.01 * 3.75)
    assert level.step.item() * 15 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("preset", "part", "ending"), [("pact", "act_quant", "step"), ("dsq", "", "softness")]
)
def test_the_penalty_is_on_the_clipping_levels_or_the_softness_alone(
    network: Callable[..., Classifier], preset: str, part: str, ending: str
) -> None:
    model = network(quantizer=preset)
    descent = Descent(model, Optimization(scale_lr=0.5, lr=0.1, weight_decay=0.03), 1, Progress())
    names = {p: n for n, p in model.named_parameters()}
    expected = {n for n in names.values() if part in n and n.endswith(ending) and "tensor_quant" in n}
    (pulled,) = [g for g in descent.optimizer.param_groups if g["weight_decay"] and g["lr"] < 0.1]
    assert {names[p] for p in pulled["params"]} == expected
    assert len(expected) >= 30 and pulled["weight_decay"] == 0.03
    free = [n for g in descent.optimizer.param_groups if not g["weight_decay"] for n in g["params"]]
    assert sum("tensor_quant" in names[p] for p in free) >= 21  # the steps of the weights
