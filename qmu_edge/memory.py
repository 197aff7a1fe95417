"""Running out of memory, as one line that says what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qmu_edge.errors import ConfigError

# How PyTorch words it: the GPU's allocator, cuBLAS, the processor's allocator.
_MESSAGES: Final = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")


@contextmanager
def within_memory(setting: str, batch: int) -> Iterator[None]:
    """Name the batch size that a run out of memory had, and where it is set.

    A batch is not split instead: where batch-norm statistics move, smaller parts make another network.

    Args:
        setting: The recipe's field, such as "[train] batch".
        batch: Its value.

    Raises:
        ConfigError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _MESSAGES):
            raise
        advice = (
            f"lower it to {batch // 2} or less" if batch > 1 else "lower [model] width, or use smaller images"
        )
        raise ConfigError(f"{setting} = {batch} takes more memory than there is: {advice}") from error
