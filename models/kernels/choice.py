"""Which kernels a run computes its quantizers with: the one place that chooses.

| device | passes | why |
|---|---|---|
| GPU | Triton's | the plain ones are a dozen kernels for each tensor |
| processor, a long run | machine code | as fast as a rectifier; lets convolutions be computed in integers |
| processor, a short run | plain | compiling takes a second |

Whether a convolution is computed in integers is decided for each one by its sizes, in `integer_conv.py`: only
machine code writes the codes for it.
"""

from typing import Final

import torch

from qmu_edge.models.kernels.fused import PLAIN, Passes
from qmu_edge.models.kernels.native import native

NATIVE_FROM_STEPS: Final = 100


def passes_for(device: torch.device, steps: int) -> tuple[Passes, str]:
    """The passes for a run of so many steps on a device, and what to tell when they are slow ones, or ""."""
    if device.type == "cuda":
        kernels = _triton(device)
        if kernels is None:
            return PLAIN, "no Triton kernels for the quantizers: they run as they stand, slower"
        return kernels, ""
    if device.type != "cpu" or steps < NATIVE_FROM_STEPS:
        return PLAIN, ""
    compiled = native()
    if compiled is None:
        return PLAIN, "no C++ compiler for the quantizers: they run as they stand, about a quarter slower"
    return compiled, ""


def _triton(device: torch.device) -> Passes | None:
    try:
        from qmu_edge.models.kernels.triton import tried
    except ImportError:
        return None
    return tried(device)
