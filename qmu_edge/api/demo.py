"""The main job on real images in a few minutes: train, delete one person, compare with retraining.

Uses only what a user has: the functions of `qmu_edge.api.project`.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from qmu_edge import api
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.project.project import RECIPE

SUBJECT = "writer-7"
MARK = ".qmu-demo"


def demo(folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the demonstration in `folder`, which is emptied first if an earlier one made it.

    Returns:
        Rows of the table (original, unlearned, retrained), cost of each step, and paths. Where the first
        method missed a threshold, "unlearned" is the file of the retrained network, with no other beside it.

    Raises:
        ConfigError: The folder holds something else.
    """
    shown = progress or Progress()
    _empty(folder)
    costs: dict[str, Any] = {}
    _, costs["init"] = measured_cost(lambda: api.init(folder, progress=shown))
    _compare_with_retrained(folder / RECIPE)
    _, costs["train"] = measured_cost(lambda: api.train(folder, progress=shown))
    shown.note(f"deleting everything of {SUBJECT}")
    api.request_new(subject_ids=[SUBJECT], out=folder / "req.json")
    served = api.unlearn(folder / "req.json", folder, progress=shown)
    costs.update(served["steps"])
    report = served["report"]
    seconds = {
        "original": costs["train"]["seconds"],
        "unlearned": costs["unlearned"]["seconds"] + costs["requantized"]["seconds"],
    }
    if report["retrained"]:
        seconds["retrained"] = report["retrained"]["seconds"]
    rows = {name: _row(name, report, seconds[name]) for name in seconds}
    paths = {
        **served["files"],
        "receipt.json": served["receipt"],
        "request": str(folder / "req.json"),
    }
    return {
        "rows": rows,
        "steps": costs,
        "paths": paths,
        "verdict": report["verdict"],
        "counts": served["counts"],
    }


def _row(name: str, report: dict[str, Any], seconds: float) -> dict[str, Any]:
    part = report[name]
    found = part["evaluation"]
    return {
        "FA": found["fa"]["value"], "RA": found["ra"]["value"], "TA": found["ta"]["value"],
        "MIA": part["mia_efficacy"]["mean"], "MIA AUC": found["mia_auc"]["value"],
        "file_bytes": found["bytes"], "seconds": seconds,
    }  # fmt: skip


def _compare_with_retrained(recipe: Path) -> None:
    """Ask for the retrained reference, as a user would: by editing qmu.toml."""
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace('reference = "held-out"', 'reference = "retrained"'), "utf-8")


def _empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise ConfigError(f"{folder}: not empty, and not an earlier demonstration")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(f"made by qmu-edge demo, process {os.getpid()}\n")
