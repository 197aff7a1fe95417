"""Choice of the kernels for the quantizers of a run.

| device | passes | why |
|---|---|---|
| GPU | Triton's | the plain ones launch a dozen kernels for each tensor |
| CPU, a long run | compiled C++ | as fast as a rectifier; allows integer convolutions |
| CPU, a short run | plain | compiling takes a second |

Whether a convolution is computed in integers depends on its sizes, see `integer_conv.py`: only the compiled
passes provide integer codes.
"""

from typing import Final

import torch

from qmu_edge.models.kernels.fused import PLAIN, Passes
from qmu_edge.models.kernels.native import native

NATIVE_FROM_STEPS: Final = 100


def passes_for(device: torch.device, steps: int) -> tuple[Passes, str]:
    """The passes for a run of `steps` steps on a device, and a note for the user, "" unless they are slow."""
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
