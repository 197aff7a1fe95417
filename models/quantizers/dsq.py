"""DSQ: a piecewise tanh function (soft staircase) replaces rounding in training.

Between two codes the function rises like tanh. Its softness is learned: near 0 it approaches rounding, near 1
a straight line. An L2 penalty pulls it towards 0. Evaluation, re-quantization and export round to the uniform
grid.

Source: Gong et al., "Differentiable Soft Quantization: Bridging Full-Precision and Low-Bit Neural
    Networks", ICCV 2019, arXiv:1908.05033.
Differs: the clipping range is that of a learned step, whose gradient is that of the soft staircase, times
    LSQ's factor. The paper bounds the norm of the softness; here it is penalised and clamped to 0.001..0.5.
    The authors' later code rounds in training too and fixes the softness at 0.4.
"""

from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.kernels.fused import FusedIntQuant, Grid

FIRST_SOFTNESS: Final = 0.2
HARDEST: Final = 1e-3
SOFTEST: Final = 0.5


def soft_staircase(x: Float[Tensor, "*x"], softness: Float[Tensor, ""]) -> Float[Tensor, "*x"]:
    """Soft rounding: integers and half-integers are fixed points, with tanh pieces in between.

    >>> x = torch.tensor([-1.0, 0.25, 0.5, 0.75, 2.0])
    >>> soft_staircase(x, torch.tensor(0.2))
    tensor([-1.0000,  0.1875,  0.5000,  0.8125,  2.0000])
    >>> soft_staircase(x, torch.tensor(0.01))
    tensor([-1.0000,  0.0618,  0.5000,  0.9382,  2.0000])
    """
    sharpness = torch.log(2.0 / softness - 1.0)  # tanh reaches 1 - softness at the ends of a piece
    code = x.floor()
    return code + 0.5 + 0.5 * torch.tanh(sharpness * (x - code - 0.5)) / (1.0 - softness)


class SoftIntQuant(FusedIntQuant):
    """Brevitas' `IntQuant` with the soft staircase in training.

    Attributes:
        penalised: See `LearnedStep`.
        softness: Float parameter, scalar: DSQ's characteristic variable alpha.
    """

    penalised: ClassVar[bool] = True

    def __init__(
        self,
        narrow_range: bool,
        signed: bool,
        input_view_impl: nn.Module,
        float_to_int_impl: nn.Module,
        tensor_clamp_impl: nn.Module,
    ) -> None:
        """Initialise the softness to the paper's value; the arguments are those of `IntQuant`."""
        super().__init__(narrow_range, signed, input_view_impl, float_to_int_impl, tensor_clamp_impl)
        self.softness = nn.Parameter(torch.tensor(FIRST_SOFTNESS))

    def while_training(self, x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
        """`x` on the soft staircase over the grid, as `dtype`."""
        # In the precision of the step: in half precision the sum of its gradient would lose most terms.
        scaled = (x.to(step.dtype) / step).clamp(grid.low, grid.high)
        value = soft_staircase(scaled, self.softness.clamp(HARDEST, SOFTEST)) * step
        if self.clamp_through:  # outside of the clipping range, where the clamp has gradient 0
            beyond = x / step.detach() != scaled.detach()
            value = value + torch.where(beyond, x - x.detach(), 0.0)
        return value.to(dtype)

    def on_learned_step(self, x: Tensor, scaling: Any, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The same for a `LearnedStep`, whose value is computed first."""
        return self.while_training(x, scaling(x), grid, dtype)
