"""Which kernels a run gets: by its device and its length, and what is told when they are slow ones."""

import pytest
import torch

from qmu_edge.models.kernels import choice
from qmu_edge.models.kernels.choice import NATIVE_FROM_STEPS, passes_for
from qmu_edge.models.kernels.fused import PLAIN

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COMPILED = PLAIN._replace()


@pytest.mark.parametrize("steps", [0, NATIVE_FROM_STEPS - 1])
def test_a_short_run_compiles_nothing(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(choice, "native", lambda: pytest.fail("compiled"))
    assert passes_for(CPU, steps) == (PLAIN, "")
    assert passes_for(torch.device("meta"), 10 * NATIVE_FROM_STEPS) == (PLAIN, "")


def test_a_long_run_takes_machine_code_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILED is not PLAIN
    monkeypatch.setattr(choice, "native", lambda: COMPILED)
    passes, told = passes_for(CPU, NATIVE_FROM_STEPS)
    assert passes is COMPILED and told == ""
    monkeypatch.setattr(choice, "native", lambda: None)
    passes, told = passes_for(CPU, NATIVE_FROM_STEPS)
    assert passes is PLAIN and "no C++ compiler" in told


def test_a_gpu_takes_tritons_kernels_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_triton", lambda device: COMPILED)
    passes, told = passes_for(GPU, 1)
    assert passes is COMPILED and told == ""
    monkeypatch.setattr(choice, "_triton", lambda device: None)
    passes, told = passes_for(GPU, 1)
    assert passes is PLAIN and "no Triton kernels" in told
