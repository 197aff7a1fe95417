"""Memory that stays with the process between the steps of a run.

glibc hands freed memory back to the system: large pieces at once, the end of its heap as soon as enough
is free. A training step frees all that it has stored, and the next one gets it again page by page, each
zeroed by the kernel first: a tenth to a third of a step on a processor.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import torch

# From glibc's malloc.h. The values for the time after are what its own rules arrive at in a process that has
# freed large pieces; it does not tell which it had.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_KEPT: Final = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_HANDED_BACK: Final = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25}


@cache
def _glibc() -> Any:
    """The C library; None where it is not glibc, or the environment has other settings for its memory."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep what is freed inside for what comes next, and hand it back at the end. Nothing on a GPU.

    The setting is one of the whole process. Of two contexts, one in the other, the inner one ends both.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    _set(library, _KEPT)
    try:
        yield
    finally:
        _set(library, _HANDED_BACK)
        library.malloc_trim(0)


def _set(library: Any, options: dict[int, int]) -> None:
    for name, value in options.items():
        library.mallopt(name, value)
