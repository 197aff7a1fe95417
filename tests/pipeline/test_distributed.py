"""Two processes against one: the same gradients, the same networks, and the same command."""

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from qmu_edge.errors import IntegrityError
from qmu_edge.pipeline.distributed import TRAINING, _packed, _unpacked
from qmu_edge.train.difficulty import ease_of
from tests.pipeline import ranks

pytestmark = pytest.mark.usefixtures("shallow")

ROOT = Path(__file__).parents[2]
LEARNED: dict[str, Any] = {"quantizer": "learned_step"}
GRADIENTS: list[list[Any]] = [
    ["gradient", LEARNED, {}],
    ["gradient", {"quantizer": "pact", "weight_bits": 2}, {}],
    ["gradient", {"architecture": "mobilenet_v2", "activation_bits": "float"}, {}],
]
RECIPE = """
[data]
source = "digits"
size = 8
[model]
width = 0.125
[train]
epochs = 4
batch = 128
[references]
trained = "never"
[policy]
when_not_measurable = "release"
max_ta_drop = 1.0
max_ra_drop = "off"
"""
FEW = {"epochs": 1, "batch": 15, "lr": 0.01}
# From nothing, where channels are still dead, and up a loss: narrow grids make a last bit the next step's
# direction there.
SMOOTH = {"weight_bits": 8, "activation_bits": "float"}
# Plain steps, two gradients a step, a teacher, hooks that look inside, a search by forward passes.
RUNS: list[list[Any]] = [
    [TRAINING, SMOOTH, {}],
    ["retrain", SMOOTH, {}],
    ["qmul", LEARNED, FEW],
    ["held_out_match", LEARNED, FEW],
    ["oeu", LEARNED, FEW],
    ["l1_sparse", LEARNED, FEW],
    ["scrub_r", SMOOTH, {"epochs": 2, "forget_epochs": 1, "batch": 15, "lr": 0.01}],
    ["pgu", LEARNED, {"epochs": 1, "batch": 15}],
    ["ssd", LEARNED, {"batch": 15, "threshold": 1.0}],
    ["influence", LEARNED, {"batch": 15, "fisher_batch": 5, "alpha": 0.1}],
]


def torchrun(*command: object, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """Start two processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["GLOO_SOCKET_IFNAME"] = "lo"  # no network, and no name of this machine, is needed
    return subprocess.Popen(
        [*launcher, *map(str, command)], cwd=cwd, text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What two processes find."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "jobs").write_text(json.dumps(GRADIENTS + RUNS), "utf-8")
    process = torchrun("-m", "tests.pipeline.ranks", folder / "jobs", folder / "results")
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
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(len(RUNS)), ids=[row[0] for row in RUNS])
def test_a_run_makes_the_network_of_one_process(
    number: int, by_two: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmu_edge.train.loop.mixed_precision", lambda *_: False)
    method, recipe, given = RUNS[number]
    before = copy.deepcopy(ranks.job(method, recipe, given).model).state_dict()
    ours = ranks.job(method, recipe, given).run().state_dict()
    theirs = _of(by_two, number, "b")
    assert {*ours} == {*theirs}
    assert _distance(ours, theirs) < 1e-4 * _distance(ours, before)


def test_what_a_network_starts_from_travels_with_it(tmp_path: Path) -> None:
    job = ranks.job(TRAINING, SMOOTH, {})
    name = next(iter(job.model.state_dict()))
    start = {name: torch.full_like(job.model.state_dict()[name], 0.25)}
    job.model.start = start
    found = _unpacked(_packed(job), tmp_path / "state")[0].model
    assert found.start is not None and torch.equal(found.start[name], start[name])
    assert torch.equal(found.state_dict()[name], start[name])
    job.model.start = None
    assert _unpacked(_packed(job), tmp_path / "state")[0].model.start is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"seed": 1, "seed": 1}', b"[]"])
def test_a_job_that_was_damaged_on_its_way_is_refused(tmp_path: Path, content: bytes) -> None:
    packed = load(_packed(ranks.job(TRAINING, SMOOTH, {})))
    packed["about"] = torch.tensor([*content], dtype=torch.uint8)
    with pytest.raises(IntegrityError, match=r"^a job is not "):
        _unpacked(save(packed), tmp_path / "state")


def test_a_job_says_how_hard_its_own_images_are(tmp_path: Path) -> None:
    """The other processes get only the images that the job needs, under other positions."""
    job = ranks.job("held_out_match", SMOOTH, {})
    few = replace(job.data, retain=job.data.retain.take(torch.arange(5, 30)))
    job.model.difficulty = torch.arange(45, dtype=torch.uint8).flip(0)
    theirs, _ = _unpacked(_packed(replace(job, data=few)), tmp_path / "state")
    assert len(theirs.data.forget.pool) == 35
    wanted = ease_of(job.model.difficulty, few.forget, few.retain)
    found = ease_of(theirs.model.difficulty, theirs.data.forget, theirs.data.retain)
    assert wanted is not None and found is not None and torch.equal(found, wanted)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project, not trained."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE, "utf-8")
    command("init", "project", "--recipe", recipe, cwd=tmp_path)
    return tmp_path / "project"


def command(*arguments: object, cwd: Path) -> str:
    """Stdout of a command in one process."""
    code = "from qmu_edge.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, text=True, env=environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_a_request_is_served_by_two_processes(project: Path) -> None:
    folder = project.parent
    main = folder / "main.py"
    main.write_text("from qmu_edge.cli.main import main; main()", "utf-8")
    command("request", "new", "--subject", "writer-3", "--out", "r.json", cwd=folder)
    for arguments in (["train"], ["unlearn", "--request", "r.json", "--method", "retrain"]):
        process = torchrun(main, *arguments, "--project", project, "--json", cwd=folder)
        out, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        json.loads(out)  # one process has spoken
    command("receipt", "verify", "--project", project, cwd=folder)
    process = torchrun(main, "unlearn", "--request", "nosuch.json", "--project", project, cwd=folder)
    _, told = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "qmu-edge: nosuch.json: no such file" in told


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_command_goes_on(project: Path) -> None:
    folder = project.parent
    main = folder / "main.py"
    # The second process dies in the middle of training; the first one has saved its state by then.
    main.write_text(
        "import os, threading, qmu_edge.train.fit\n"
        "qmu_edge.train.fit.SAVE_EVERY_S = 0.0\n"
        "from qmu_edge.cli.main import main\n"
        "from qmu_edge.train import fit as train\n"
        "if os.environ['RANK'] == '1':\n"
        "    save = train._save\n"
        "    def then_die(*args):\n"
        "        save(*args)\n"
        "        if args[3][0] == 2:\n"
        "            os.kill(os.getpid(), 9)\n"
        "    train._save = then_die\n"
        "main()\n", "utf-8",
    )  # fmt: skip
    process = torchrun(main, "train", "--project", project, cwd=folder)
    _, told = process.communicate(timeout=300)
    assert process.returncode != 0, told
    environment = subprocess.run(
        [sys.executable, "-c", "from qmu_edge.cli.main import main; main()", "train", "--project", project],
        cwd=folder, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "continuing after epoch" in environment.stderr


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    weights = [name for name, tensor in a.items() if tensor.dim() > 1]
    return math.sqrt(sum(float((a[n] - b[n]).square().sum()) for n in weights))
