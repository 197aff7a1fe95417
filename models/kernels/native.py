"""The passes of `fused.py` in C++ (`native.cpp`), compiled for this CPU.

They are compiled at their first use in a process, which takes a second, into a temporary folder: nothing is
installed, and there is no cache to trust or to clean. Values and gradients are the same to the bit as those
of the plain passes; the gradient of a step is summed in another order.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from qmu_edge.models.kernels import integer_conv
from qmu_edge.models.kernels.fused import PLAIN, Codes, Grid, Passes, serves_rows

SOURCE: Final = Path(__file__).with_name("native.cpp")
# Exact floating point: no reordered sums but those in the source, no fused multiply-add, NaN is honoured.
FLAGS: Final = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-ffp-contract=off",
    "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
TYPES: Final = {
    (torch.float32, torch.float32): "float32_float32",
    (torch.float32, torch.bfloat16): "float32_bfloat16",
    (torch.bfloat16, torch.bfloat16): "bfloat16_bfloat16",
}


class _Grid(ctypes.Structure):
    _fields_ = (
        ("low", ctypes.c_float), ("high", ctypes.c_float), ("floor", ctypes.c_float),
        ("smallest", ctypes.c_float), ("power_of_two", ctypes.c_int32),
    )  # fmt: skip


@cache
def _structure(grid: Grid) -> _Grid:
    return _Grid(*grid)


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


@cache
def native() -> Passes | None:
    """The compiled passes; None where there is no C++ compiler that takes `FLAGS`."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "native.so"
        try:
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            return _passes(ctypes.CDLL(str(made)))
        except (OSError, subprocess.SubprocessError):
            return None


def _passes(library: ctypes.CDLL) -> Passes:
    block = library.block_size()
    of_values = {types: library[f"values_{name}"] for types, name in TYPES.items()}
    of_gradients = {types: library[f"gradients_{name}"] for types, name in TYPES.items()}
    for function in of_values.values():
        function.argtypes, function.restype = [_POINTER, _POINTER, _Grid, _SIZE, _SIZE, _POINTER], None
    for function in of_gradients.values():
        function.argtypes = [
            _POINTER, _POINTER, _POINTER, _Grid, _SIZE, _SIZE, _POINTER, _POINTER, ctypes.c_float,
        ]  # fmt: skip
        function.restype = None

    def values(x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
        function = of_values.get((x.dtype, dtype))
        if function is None or not _served(x, step):
            return PLAIN.values(x, step, grid, dtype)
        y = torch.empty_like(x, dtype=dtype)
        function(x.data_ptr(), step.data_ptr(), _structure(grid), *_size(x, step), y.data_ptr())
        return y

    def gradients(
        x: Tensor, grad: Tensor, step: Tensor, grid: Grid, *, factor: float | None
    ) -> tuple[Tensor, Tensor | None]:
        function = of_gradients.get((x.dtype, grad.dtype))
        if function is None or not _served(x, step):
            return PLAIN.gradients(x, grad, step, grid, factor=factor)
        rows, width = _size(x, step)
        out = torch.empty_like(x)
        sums = torch.empty(rows, -(-width // block), dtype=torch.float32) if factor is not None else None
        function(
            x.data_ptr(), grad.data_ptr(), step.data_ptr(), _structure(grid), rows, width,
            out.data_ptr(), None if sums is None else sums.data_ptr(), factor or 0.0,
        )  # fmt: skip
        return out, None if sums is None else sums.sum(-1).view(step.shape)

    return Passes(values, gradients, _codes(library) if integer_conv.works() else None)


def _codes(library: ctypes.CDLL) -> Codes:
    functions = {torch.float32: library.codes_float32, torch.bfloat16: library.codes_bfloat16}
    for function in functions.values():
        function.argtypes, function.restype = [
            _POINTER, _POINTER, _Grid, _SIZE, _SIZE, ctypes.c_int32, _POINTER, _POINTER,
        ], None  # fmt: skip

    def codes(x: Tensor, step: Tensor, grid: Grid, zero: int) -> tuple[Tensor, Tensor]:
        function = functions.get(x.dtype)
        if function is None or not _served(x, step):
            return integer_conv.codes(x, step, grid, zero)
        found = torch.empty_like(x, dtype=torch.uint8)
        value = torch.empty(step.numel(), dtype=torch.float32)
        function(
            x.data_ptr(), step.data_ptr(), _structure(grid), *_size(x, step), zero,
            found.data_ptr(), value.data_ptr(),
        )  # fmt: skip
        return found, value

    return codes


def _served(x: Tensor, step: Tensor) -> bool:
    known = x.is_cpu and step.is_cpu and step.dtype == torch.float32 and step.is_contiguous()
    return known and serves_rows(x, step)


def _size(x: Tensor, step: Tensor) -> tuple[int, int]:
    """Number of rows, each with its own step, and of entries in a row."""
    rows = step.numel()
    return rows, x.numel() // max(1, rows)
