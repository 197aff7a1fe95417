"""The GPU's kernels without a GPU: interpreted beside the plain passes, and compiled for two generations.

In processes of their own: Triton reads the source of its kernels, which the type checks of tests would
change, and whether it interprets them is settled when they are defined.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

INTERPRETED = """
import torch
from qmu_edge.models.kernels import triton as triton_passes
from qmu_edge.models.kernels.fused import PLAIN, Grid

assert triton_passes.tried(torch.device("cpu")) is not None
torch.manual_seed(0)
wide = triton_passes.BLOCK + 1
shapes = {(3 * wide,): (), (5, wide): (5, 1), (3, 9): (3, 1)}
for shape, steps in shapes.items():
    step = torch.rand(steps) - 0.3
    for grid in (Grid(-8, 7, smallest=0.05), Grid(0, 15, 0.0, 0.05, True), Grid(-2, 1, smallest=0.1),
                 Grid(-128, 127, smallest=0.1, power_of_two=True)):
        for of_x in triton_passes.TYPES:
            for of_y in triton_passes.TYPES:
                x, grad = (torch.randn(shape) * 3).to(of_x), torch.randn(shape).to(of_y)
                x.view(-1)[3:9] = torch.tensor([1e30, -torch.inf, 0.1, 0.3, -0.1, 0.0])
                case = (shape, grid, of_x, of_y)
                found, wanted = (p.values(x, step, grid, of_y) for p in (triton_passes, PLAIN))
                assert found.dtype == of_y and torch.equal(found, wanted), case
                found, wanted = (
                    p.gradients(x, grad, step, grid, factor=0.3) for p in (triton_passes, PLAIN)
                )
                assert found[0].dtype == of_x and torch.equal(found[0], wanted[0]), case
                torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-4)
                assert triton_passes.gradients(x, grad, step, grid, factor=None)[1] is None
# A step that was never set makes NaN of everything, also as a power of two.
for never in (Grid(-8, 7), Grid(-8, 7, power_of_two=True)):
    assert triton_passes.values(torch.randn(9), torch.tensor(torch.nan), never, torch.float32).isnan().all()
# What they do not serve goes the plain way: nothing to quantize, other types.
for x in (torch.empty(0), torch.randn(8).double()):
    assert torch.equal(triton_passes.values(x, torch.tensor(0.5), Grid(-8, 7), x.dtype),
                       PLAIN.values(x, torch.tensor(0.5), Grid(-8, 7), x.dtype))
print("same")
"""

DEVIANT = """
import torch
from qmu_edge.models.kernels import triton as triton_passes
triton_passes.values = lambda x, step, grid, dtype: x.to(dtype)
assert triton_passes.tried(torch.device("cpu")) is None
print("same")
"""

COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qmu_edge.models.kernels import triton as t

names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
numbers = ("low", "high", "floor", "smallest", "power_of_two", "factor")
shared = {"step": "*fp32", "width": "i32", **dict.fromkeys(numbers, "fp32")}
for generation in (80, 90):
    for of_x in t.TYPES:
        for of_y in t.TYPES:
            x, y = "*" + names[of_x], "*" + names[of_y]
            kernels = {
                t._values: ({"x": x, "y": y}, {"half": of_y == torch.bfloat16}),
                t._gradients: ({"x": x, "grad": y, "out": x, "sums": "*fp32"},
                               {"half": of_x == torch.bfloat16, "of_step": True}),
            }
            for kernel, (arguments, constants) in kernels.items():
                constants |= {"block": t.BLOCK}
                known = arguments | shared | dict.fromkeys(constants, "constexpr")
                signature = {name: known[name] for name in kernel.arg_names}
                made = triton.compile(ASTSource(kernel, signature=signature, constexprs=constants),
                                      target=GPUTarget("cuda", generation, 32))
                assert made.asm["cubin"] and "div.rn.f32" in made.asm["ptx"]
print("same")
"""


def ran(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else done.stderr


def test_interpreted_kernels_compute_what_the_plain_passes_compute() -> None:
    assert ran(INTERPRETED, TRITON_INTERPRET="1").endswith("same\n")


def test_kernels_that_compute_something_else_are_not_used() -> None:
    assert ran(DEVIANT, TRITON_INTERPRET="1").endswith("same\n")


def test_where_kernels_cannot_run_the_plain_passes_do() -> None:
    code = "import torch\nfrom qmu_edge.models.kernels.triton import tried\nprint(tried(torch.device('cpu')))"
    assert ran(code, TRITON_INTERPRET="0") == "None\n"


def test_kernels_compile_for_gpus(tmp_path: object) -> None:
    assert ran(COMPILED, TRITON_CACHE_DIR=str(tmp_path)).endswith("same\n")
