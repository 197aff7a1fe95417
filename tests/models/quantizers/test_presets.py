"""The learned step by hand: first value, gradient, freezing, and a step below zero."""

import pytest
import torch

from qmu_edge.models.kernels.steps import SMALLEST_STEP
from qmu_edge.models.quantizers.presets import LearnedStep


def test_first_step_of_a_tensor_is_twice_the_mean_magnitude_over_the_root_of_the_largest_code() -> None:
    step = LearnedStep((), largest_code=4)
    step.observe(torch.tensor([[0.0, -1.0, 1.0, 0.0], [0.0, 0.0, 0.0, -14.0]]))
    assert step.step.item() == 2 * 2.0 / 2


def test_first_step_is_never_wider_than_the_data_needs() -> None:
    step = LearnedStep((), largest_code=100)
    step.observe(torch.tensor([[1.0, -1.0], [2.0, -4.0]]))
    assert step.step.item() == pytest.approx(4.0 / 100)


def test_first_step_of_a_weight_is_per_channel() -> None:
    step = LearnedStep((2, 1), largest_code=4)
    step.observe(torch.tensor([[0.0, -0.0, 0.0, 8.0], [3.0, 1.0, -8.0, 0.0]]))
    assert step.step.flatten().tolist() == [2.0, 2.0]


def test_observed_batches_are_averaged_until_restarted() -> None:
    step = LearnedStep((), largest_code=4)
    for value in (4.0, 8.0, 24.0):
        step.observe(torch.tensor([value]))
    assert step.step.item() == pytest.approx(3.0)
    step.restart()
    step.observe(torch.tensor([20.0]))
    assert step.step.item() == 5.0


def test_forward_observes_only_while_observing() -> None:
    step = LearnedStep((), largest_code=4)
    assert step(torch.ones(1)).isnan()
    step.observing = True
    assert step(torch.full((1,), 4.0)).item() == 1.0
    step.observing = False
    assert step(torch.full((1,), 9.0)).item() == 1.0


@pytest.mark.parametrize(
    ("scaling_shape", "x_shape", "elements"),
    [((), (8, 5, 5), 25), ((2, 1, 1), (2, 5, 5), 50)],  # features of one image; weights of the layer
)
def test_gradient_is_divided_by_the_root_of_elements_times_largest_code(
    scaling_shape: tuple[int, ...], x_shape: tuple[int, ...], elements: int
) -> None:
    step = LearnedStep(scaling_shape, largest_code=4)
    x = torch.ones(x_shape)
    step.observe(x)
    scale = step(x)
    torch.testing.assert_close(scale, step.step)
    scale.sum().backward()
    expected = torch.full(scaling_shape, (elements * 4) ** -0.5)
    torch.testing.assert_close(step.step.grad, expected)


def test_frozen_step_is_exact_and_has_no_gradient() -> None:
    step = LearnedStep((), largest_code=7)
    step.observe(torch.rand(10))
    step.step.requires_grad_(False)
    scale = step(torch.rand(10))
    assert not scale.requires_grad
    assert scale.item() == step.step.item()


def test_negative_step_comes_back() -> None:
    step = LearnedStep((), largest_code=4)
    with torch.no_grad():
        step.step.fill_(-0.5)
    scale = step(torch.ones(1, 4))
    assert scale.item() == 0.5
    (-scale).backward()  # a loss that wants a larger scale
    assert step.step.grad is not None
    assert step.step.grad.item() > 0  # so descent moves it further from zero, where it belongs


def test_zero_step_stays_usable() -> None:
    step = LearnedStep((), largest_code=4).eval()
    with torch.no_grad():
        step.step.fill_(0.0)
    assert step(torch.ones(1)).item() == pytest.approx(SMALLEST_STEP)


def test_power_of_two_step_is_rounded_and_its_gradient_passes_straight_through() -> None:
    x = torch.linspace(-1, 1, 12)
    steps = [LearnedStep((), largest_code=4, power_of_two=p) for p in (False, True)]
    for step in steps:
        with torch.no_grad():
            step.step.fill_(0.3)
        step(x).square().backward()
    assert steps[1](x).item() == 0.25 and steps[1].step.item() == pytest.approx(0.3)
    free, rounded = (step.step.grad for step in steps)
    assert free is not None and rounded is not None
    assert rounded.item() == pytest.approx(free.item() * 0.25 / 0.3)  # of the square, at the rounded step
