"""Keep freed memory in the process between the steps of a run.

glibc returns freed memory to the system: large blocks at once, the top of its heap as soon as enough is free.
A training step frees all its activations, and the next one gets the memory again by page faults, each with a
page that the kernel zeroes first: a tenth to a third of the time of a step on a CPU.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import torch

# Options of glibc's malloc.h. glibc cannot report its current values; those of _HANDED_BACK are what its
# dynamic thresholds reach in a process that has freed large blocks.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_KEPT: Final = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_HANDED_BACK: Final = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25}


@cache
def _glibc() -> Any:
    """The C library; None where it is not glibc, or the environment configures its allocator."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep memory freed inside the context for reuse, and return it to the system at the end.

    No effect where `device` is a GPU. The setting is global to the process: the end of an inner context ends
    the outer one as well.
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
