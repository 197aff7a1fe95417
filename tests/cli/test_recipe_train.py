"""What a recipe can train with, by the real commands: training, references, unlearning, recomputing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.train.batches import Augment
from tests.cli.conftest import ONCE, run_command

KEYS = """crop_area = 0.5
jitter = 0.4
rand_ops = 1
rand_level = 5
flip = true
[model]
width = 0.125
[train]
mixup = 0.2
average = 0.9
distillation = 0.5
optimizer = "adamw"
lr = 0.005"""


def _project(folder: Path) -> Path:
    """A project that trains with everything that there is."""
    text = ONCE.replace("[model]\nwidth = 0.125\n[train]", KEYS)
    (folder / "recipe.toml").write_text(text, "utf-8")
    project = folder / "project"
    for words in (("init", project, "--recipe", folder / "recipe.toml"), ("train", "--project", project)):
        ended = run_command(*words)
        assert ended.code == 0, ended.err
    return project


@pytest.mark.slow
def test_everything_is_trained_as_the_recipe_says_and_again_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network, its references, both rungs of the ladder; a retrained receipt is recomputed."""
    used: set[Augment] = set()
    original = Augment.__call__

    def spy(self: Augment, images: Any, generator: torch.Generator) -> Any:
        used.add(self)
        return original(self, images, generator)

    monkeypatch.setattr(Augment, "__call__", spy)
    project = _project(tmp_path)
    with opened(project, Progress()) as known:
        wanted = Augment.of(known.recipe.data)
        assert not [*(known.folder / "work").iterdir()]
    assert used == {wanted} and wanted.crop_area == 0.5
    for method in ("qmul", "retrain"):
        used.clear()
        request = tmp_path / f"{method}.json"
        subject = "writer-3" if method == "retrain" else "writer-4"
        assert run_command("request", "new", "--subject", subject, "--out", request).code == 0
        words = ("unlearn", "--request", request, "--project", project, "--method", method)
        planned = run_command(*words, "--dry-run", "--json")
        assert planned.code == 0, planned.err
        ended = run_command(*words, *(("--deterministic",) if method == "retrain" else ()))
        assert ended.code in (0, 7), ended.err
        assert used == {wanted}, method
    ended = run_command("receipt", "recompute", "--project", project, "--quiet", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["files"]
