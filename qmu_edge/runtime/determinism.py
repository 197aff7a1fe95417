"""Bitwise reproducible runs: PyTorch's deterministic algorithms, which are slower, inside a context."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from qmu_edge.errors import ConfigError

WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Allow deterministic algorithms only, and restore the settings afterwards; no effect unless `wanted`.

    On the same machine, with the same versions and number of threads, the seed then determines every bit.
    cuBLAS reads its setting once, so the context has no effect on it in a process that has used the GPU
    before.

    Raises:
        ConfigError: An operation of the run has no deterministic algorithm on this device.
    """
    if not wanted:
        yield
        return
    mode, workspace = torch.get_deterministic_debug_mode(), os.environ.get(WORKSPACE)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise ConfigError(f"--deterministic: {str(error).partition('. ')[0]}") from error
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if workspace is None:
            del os.environ[WORKSPACE]
