"""The grid of the benchmarks: resumable cell by cell, and the same over Ray."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GRID = """
seeds = [0, 1]
scenarios = ["random-10"]
budgets = [1, 2]
[networks.tiny]
dataset = "digits"
train_images = 300
test_images = 200
data = { source = "digits", size = 8 }
model = { width = 0.125 }
train = { epochs = 2, batch = 64, lr = 0.05 }
"""
pytestmark = pytest.mark.slow


def grid(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the script on the tiny grid."""
    (folder / "tiny.toml").write_text(GRID, "utf-8")
    command = [sys.executable, ROOT / "bench" / "methods.py", folder / "tiny.toml", "--work", folder / "work"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    return subprocess.run(
        [*map(str, command), "--methods", "finetune", "--trials", "2", *options],
        cwd=ROOT, env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip


def results(folder: Path) -> dict[str, Any]:
    """What the cells say, but for times."""
    cells = {}
    for path in sorted((folder / "work").glob("tiny/tiny/*/*.json")):
        found = json.loads(path.read_text("utf-8"))
        cells[path.name] = {k: found.get(k) for k in ("FA", "RA", "TA", "MIA", "AUC", "params", "error")}
    return cells


def test_a_grid_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = grid(tmp_path, "--minutes", "0")
    assert len(first.stderr.splitlines()) >= 1
    grid(tmp_path)
    whole = results(tmp_path)
    assert len(whole) == 2 * 5 + 2  # original, two retrained, one method in two budgets; what was tuned
    assert all(cell["error"] is None for cell in whole.values())
    lost = next((tmp_path / "work").glob("tiny/tiny/*/finetune@1.1.json"))
    lost.unlink()
    again = grid(tmp_path)
    assert [line.split()[0] for line in again.stderr.splitlines() if "finetune" in line] == ["1/1"]
    assert results(tmp_path) == whole


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `cluster` is not installed")
def test_ray_computes_the_same_cells(tmp_path: Path) -> None:
    for name in ("here", "ray"):
        (tmp_path / name).mkdir()
    grid(tmp_path / "here")
    grid(tmp_path / "ray", "--ray", "local")
    assert results(tmp_path / "here") == results(tmp_path / "ray") != {}
