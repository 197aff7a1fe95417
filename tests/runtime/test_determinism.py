"""Deterministic runs: settings come and go, and fresh processes agree to the bit."""

import os
import subprocess
import sys

import pytest
import torch

from qmu_edge.errors import ConfigError
from qmu_edge.runtime.determinism import WORKSPACE, determinism

TRAIN = """
import hashlib, torch
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.runtime.determinism import determinism
from qmu_edge.models.build import build
from qmu_edge.models.layers import Shape
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train.fit import fit
torch.set_num_threads(2)
g = torch.Generator().manual_seed(0)
pool = torch.randint(256, (96, 1, 8, 8), generator=g, dtype=torch.uint8)
samples = Samples(pool, torch.arange(96), torch.arange(96) % 10, torch.device("cpu"))
with determinism(True):
    model = build(ModelRecipe(width=0.125), Shape(channels=1, classes=10), 0)
    recipe = TrainRecipe(epochs=2, batch=32, seed=SEED)
    fit(model, samples, recipe, Augment(1, True), progress=Progress())
state = model.state_dict().items()
print(hashlib.sha256(b"".join(k.encode() + v.numpy().tobytes() for k, v in state)).hexdigest())
"""


def settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.get_deterministic_debug_mode(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_settings_come_and_go(monkeypatch: pytest.MonkeyPatch, workspace: str | None) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    if workspace:
        monkeypatch.setenv(WORKSPACE, workspace)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with pytest.raises(ZeroDivisionError), determinism(True):
        assert settings() == (2, True, False, workspace or ":4096:8")
        raise ZeroDivisionError
    assert settings() == before
    with determinism(False):
        assert settings() == before


def test_an_operation_without_such_an_algorithm_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^--deterministic: put_ does not have a deterministic"):
        with determinism(True):
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1), accumulate=False)


@pytest.mark.slow
def test_fresh_processes_with_two_threads_agree_to_the_bit() -> None:
    def trained(seed: int) -> str:
        words = [sys.executable, "-W", "ignore", "-c", TRAIN.replace("SEED", str(seed))]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = trained(0)
    assert trained(0) == first and trained(1) != first
