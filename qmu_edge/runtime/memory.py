"""Out-of-memory errors: detect them, restore the state before a pass, name the setting to lower."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from qmu_edge.errors import ConfigError

# Parts of PyTorch's error messages: the GPU's allocator, cuBLAS, the CPU's allocator.
_MESSAGES: Final = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _MESSAGES)


@dataclass(frozen=True, slots=True)
class PassState:
    """The state that a forward pass changes: batch-norm statistics, and the random generators for dropout.

    Attributes:
        buffers: Copies of the model's buffers, in their order.
        host, device: States of PyTorch's generators, uint8; `device` is that of a GPU, None without one.
    """

    buffers: list[Tensor]
    host: Tensor
    device: Tensor | None

    @classmethod
    def of(cls, model: nn.Module) -> "PassState":
        """The current state of `model`."""
        device = next(model.parameters()).device
        random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls([b.clone() for b in model.buffers()], torch.get_rng_state(), random)

    def restore(self, model: nn.Module) -> None:
        """Restore the state of `model` and of the generators."""
        for buffer, value in zip(model.buffers(), self.buffers, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(self.host)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, next(model.parameters()).device)


@contextmanager
def within_memory(setting: str, batch: int) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the batch size and its setting.

    Args:
        setting: The recipe's field, such as "[train] batch".
        batch: Its value.

    Raises:
        ConfigError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        advice = (
            f"lower it to {batch // 2} or less" if batch > 1 else "lower [model] width, or use smaller images"
        )
        raise ConfigError(f"{setting} = {batch} takes more memory than there is: {advice}") from error
