"""Two processes against one: the same gradients, the same networks, and the same command."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qmu_edge.distributed import TRAINING
from tests import ranks

ROOT = Path(__file__).parents[1]
LEARNED: dict[str, Any] = {"quantizer": "learned_step"}
GRADIENTS: list[list[Any]] = [
    ["gradient", LEARNED, {}],
    ["gradient", {"quantizer": "pact", "weight_bits": 2}, {}],
    ["gradient", {"architecture": "mobilenet_v2", "activation_bits": "float"}, {}],
]
FEW = {"epochs": 1, "batch": 15, "lr": 0.01}
# From nothing, where channels are still dead, narrow grids make a last bit the next step's direction.
SMOOTH = {"weight_bits": 8, "activation_bits": "float"}
# Plain steps, two gradients a step, a teacher, hooks that look inside, a search by forward passes.
RUNS: list[list[Any]] = [
    [TRAINING, SMOOTH, {}],
    ["retrain", SMOOTH, {}],
    ["qmul", LEARNED, FEW],
    ["held_out_match", LEARNED, FEW],
    ["oeu", LEARNED, FEW],
    ["l1_sparse", LEARNED, FEW],
    ["scrub_r", LEARNED, {"epochs": 2, "forget_epochs": 1, "batch": 15, "lr": 0.01}],
    ["pgu", LEARNED, {"epochs": 1, "batch": 15}],
    ["ssd", LEARNED, {"batch": 15, "threshold": 1.0}],
    ["influence", LEARNED, {"batch": 15, "fisher_batch": 5, "alpha": 0.1}],
]


def torchrun(*command: object, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """Start two processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*launcher, *map(str, command)], cwd=cwd, text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What two processes find."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "jobs").write_text(json.dumps(GRADIENTS + RUNS), "utf-8")
    process = torchrun("-m", "tests.ranks", folder / "jobs", folder / "results")
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return load_file(folder / "results")


def _of(results: dict[str, Tensor], number: int, part: str) -> dict[str, Tensor]:
    start = f"{part}{number}."
    return {name.removeprefix(start): t for name, t in results.items() if name.startswith(start)}


@pytest.mark.parametrize("number", range(len(GRADIENTS)))
def test_a_batch_has_the_gradient_and_the_statistics_of_one_process(
    number: int, by_two: dict[str, Tensor]
) -> None:
    ours, theirs = ranks.gradient(GRADIENTS[number][1]), _of(by_two, number, "a")
    assert {*ours} == {*theirs}
    assert ours["gradient"].norm() > 0
    for name, value in ours.items():
        torch.testing.assert_close(
            theirs[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("number", range(len(RUNS)), ids=[row[0] for row in RUNS])
def test_a_run_makes_the_network_of_one_process(
    number: int, by_two: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmu_edge.descent.mixed_precision", lambda *_: False)
    method, recipe, given = RUNS[number]
    before = copy.deepcopy(ranks.job(method, recipe, given).model).state_dict()
    ours = ranks.job(method, recipe, given).run().state_dict()
    theirs = _of(by_two, number, "b")
    assert {*ours} == {*theirs}
    assert _distance(ours, theirs) < 1e-4 * _distance(ours, before)


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    weights = [name for name, tensor in a.items() if tensor.dim() > 1]
    return sum(float((a[n] - b[n]).square().sum()) for n in weights) ** 0.5
