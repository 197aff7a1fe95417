"""Quantizer presets: the Brevitas quantizers for the kinds of tensors in a network.

The kinds are weights, unsigned activations (after a rectifier) and signed activations (network input,
residual branch). A preset has a Brevitas quantizer class for each of them:

    learned_step   LSQ: the step is a stored, learned parameter that can be frozen; initialised from
                   data once, explicitly. Activations use the nearest power of two. The default.
    statistics     Brevitas' own: weight scale = max|w| of each channel at every forward pass,
                   activation scale learned after 30 training steps of percentile statistics.
    pact           Activations are clipped at a learned, penalised level; weights as in learned_step.
    dsq            Learned steps with a soft staircase while training, for weights and activations.

The default is not `statistics`, because there the whole grid of a channel changes with its largest weight, so
that an update of one weight re-quantizes all others.

Source: LSQ, Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
Differs: one step per output channel for weights, not per layer; the initial step is no larger than the range
    of the data requires; symmetric narrow codes from 3 bits on (so that negation is exact), the full four
    codes {-2..1} at 2 bits, where narrow would mean ternary.
"""

import math
from typing import Any, ClassVar, Final, NamedTuple

import torch
from brevitas.core.function_wrapper import TensorClamp
from brevitas.inject import value
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.kernels.fused import FusedIntQuant
from qmu_edge.models.kernels.steps import SMALLEST_STEP, step_value
from qmu_edge.models.quantizers.dsq import SoftIntQuant
from qmu_edge.models.quantizers.pact import ClippedIntQuant


def initial_step(
    mean_magnitude: Float[Tensor, "*s"], largest_magnitude: Float[Tensor, "*s"], largest_code: int
) -> Float[Tensor, "*s"]:
    """LSQ's initial step, 2 * mean|x| / sqrt(largest code), but no more than max|x| / largest code.

    At 8 bits LSQ's value alone would leave most codes unused.

    >>> mean, largest = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 8.0])
    >>> initial_step(mean, largest, 4)
    tensor([0.7500, 1.0000])
    """
    step = torch.minimum(2.0 * mean_magnitude / math.sqrt(largest_code), largest_magnitude / largest_code)
    return step.clamp_min(SMALLEST_STEP)


def step_gradient_scale(elements: int, largest_code: int) -> float:
    """LSQ's gradient scale 1 / sqrt(elements of the layer * largest code).

    >>> step_gradient_scale(25, 4)
    0.1
    """
    return float((elements * largest_code) ** -0.5)


class _Scaled(torch.autograd.Function):
    """Return `value`, computed from `step`; the gradient of `step` is that of `value` times a factor."""

    @staticmethod
    def forward(
        ctx: Any, step: Float[Tensor, "*s"], value: Float[Tensor, "*s"], factor: float
    ) -> Float[Tensor, "*s"]:
        ctx.save_for_backward(step)
        ctx.factor = factor
        return value

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*s"]) -> tuple[Tensor, None, None]:
        (step,) = ctx.saved_tensors
        return grad * (step.sign() * ctx.factor), None, None


class LearnedStep(nn.Module):
    """Brevitas scaling implementation whose scale is a stored, learned step.

    The step is NaN until `observe` has seen data: the outputs of an uncalibrated network are NaN instead of
    plausible numbers, and `uncalibrated` names its quantizers.

    Attributes:
        step: Float parameter, shape `scaling_shape`: () per tensor, (out, 1, ...) per channel.
        observing: While true, `forward` first updates the step from its input.
        power_of_two: Whether the nearest power of two is used instead; the gradient is straight-through, so
            the stored step is trained as before.
        penalised: Whether training puts an L2 penalty on the step.
    """

    penalised: ClassVar[bool] = False

    def __init__(self, scaling_shape: tuple[int, ...], largest_code: int, power_of_two: bool = False) -> None:
        """Create the step, unset (NaN).

        Args:
            scaling_shape: Shape of the step, broadcastable against the quantized tensor.
            largest_code: Largest integer code of the grid.
            power_of_two: See the attribute.
        """
        super().__init__()
        self.power_of_two = power_of_two
        self.step = nn.Parameter(torch.full(tuple(scaling_shape), float("nan")))
        self.largest_code = largest_code
        self.observing = False
        self._batches_seen = 0

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Scale for `x`; it has a gradient in training mode only.

        `threshold`, Brevitas' integer range, is ignored.
        """
        if self.observing:
            self.observe(x.detach())
        value = self.value()
        if not (self.training and self.step.requires_grad):
            return value
        scaled: Tensor = _Scaled.apply(self.step, value, self.gradient_scale(x))  # type: ignore[no-untyped-call]
        return scaled

    def value(self) -> Float[Tensor, "*s"]:
        """The step as used in quantization, see `step_value`; without a gradient."""
        return step_value(self.step.detach(), SMALLEST_STEP, power_of_two=self.power_of_two)

    def gradient_scale(self, x: Tensor) -> float:
        """Factor on the gradient of the step."""
        # For activations, features are counted and not images: the loss is a mean over the batch already.
        elements = x.numel() // len(x) if self.step.dim() == 0 else x.numel()
        return step_gradient_scale(elements, self.largest_code)

    def observe(self, x: Tensor) -> None:
        """Set the step from the magnitudes of `x`, averaged over the batches seen so far."""
        dims = [d for d in range(x.dim()) if self.step.dim() == 0 or self.step.shape[d] == 1]
        magnitude, keep = x.abs().float(), self.step.dim() > 0
        mean, largest = magnitude.mean(dim=dims, keepdim=keep), magnitude.amax(dim=dims, keepdim=keep)
        estimate = initial_step(mean, largest, self.largest_code)
        self._batches_seen += 1
        with torch.no_grad():
            if self._batches_seen == 1:
                self.step.copy_(estimate)
            else:
                self.step.lerp_(estimate, 1.0 / self._batches_seen)

    def restart(self) -> None:
        """Discard the average: the next observed batch sets the step."""
        self._batches_seen = 0


class ClippingLevel(LearnedStep):
    """PACT's clipping level alpha, stored as the step alpha / largest code.

    Gradient descent changes alpha as if alpha were the parameter, by a factor on the gradient of the step.
    """

    penalised = True

    def gradient_scale(self, x: Tensor) -> float:
        """1 / q^2 for the largest code q: alpha's gradient is the step's over q, and step = alpha / q."""
        return float(self.largest_code) ** -2


def largest_code(bits: int, *, signed: bool) -> int:
    """Largest integer code of a grid of `bits` bits.

    >>> largest_code(4, signed=True), largest_code(4, signed=False)
    (7, 15)
    """
    return (1 << bits - 1) - 1 if signed else (1 << bits) - 1


# `let` and not `class`: a Brevitas quantizer raises its own error for a missing attribute, which class
# decorators (jaxtyping's, in the tests) do not handle.


def _per_output_channel(scaling_per_output_channel_shape: tuple[int, ...]) -> tuple[int, ...]:
    return scaling_per_output_channel_shape


def _largest_signed(bit_width: int) -> int:
    return largest_code(bit_width, signed=True)


def _largest_unsigned(bit_width: int) -> int:
    return largest_code(bit_width, signed=False)


# One learned step per output channel, narrow symmetric codes; at 2 bits all four codes {-2, -1, 0, 1}.
LearnedStepWeight: Any = Int8WeightPerChannelFloat.let(
    int_quant=FusedIntQuant,
    scaling_impl=LearnedStep,
    restrict_scaling_type="fp",
    scaling_shape=value(_per_output_channel),
    largest_code=value(_largest_signed),
)
LearnedStepWeight2: Any = LearnedStepWeight.let(narrow_range=False)

# One learned step per tensor.
LearnedStepUnsigned: Any = Uint8ActPerTensorFloat.let(
    int_quant=FusedIntQuant,
    scaling_impl=LearnedStep,
    scaling_shape=(),
    largest_code=value(_largest_unsigned),
)
LearnedStepSigned: Any = Int8ActPerTensorFloat.let(
    int_quant=FusedIntQuant,
    scaling_impl=LearnedStep,
    scaling_shape=(),
    largest_code=value(_largest_signed),
)

# Brevitas' own: max|w| of each channel at every forward pass; 30 steps of percentile statistics.
StatisticsWeight: Any = Int8WeightPerChannelFloat.let(int_quant=FusedIntQuant)
StatisticsWeight2: Any = StatisticsWeight.let(narrow_range=False)
StatisticsUnsigned: Any = Uint8ActPerTensorFloat.let(int_quant=FusedIntQuant, collect_stats_steps=30)
StatisticsSigned: Any = Int8ActPerTensorFloat.let(int_quant=FusedIntQuant, collect_stats_steps=30)


PactUnsigned: Any = LearnedStepUnsigned.let(int_quant=ClippedIntQuant, scaling_impl=ClippingLevel)
PactSigned: Any = LearnedStepSigned.let(int_quant=ClippedIntQuant, scaling_impl=ClippingLevel)

DsqWeight: Any = LearnedStepWeight.let(int_quant=SoftIntQuant)
DsqWeight2: Any = LearnedStepWeight2.let(int_quant=SoftIntQuant)
DsqUnsigned: Any = LearnedStepUnsigned.let(int_quant=SoftIntQuant, tensor_clamp_impl=TensorClamp)
DsqSigned: Any = LearnedStepSigned.let(int_quant=SoftIntQuant, tensor_clamp_impl=TensorClamp)


class Preset(NamedTuple):
    """Brevitas quantizer classes for the kinds of tensors in a network; `weight2` is for 2-bit weights."""

    weight: Any
    weight2: Any
    unsigned: Any
    signed: Any


PRESETS: Final[dict[str, Preset]] = {
    "learned_step": Preset(LearnedStepWeight, LearnedStepWeight2, LearnedStepUnsigned, LearnedStepSigned),
    "statistics": Preset(StatisticsWeight, StatisticsWeight2, StatisticsUnsigned, StatisticsSigned),
    "pact": Preset(LearnedStepWeight, LearnedStepWeight2, PactUnsigned, PactSigned),
    "dsq": Preset(DsqWeight, DsqWeight2, DsqUnsigned, DsqSigned),
}
