"""A deleted picture that is there under other pixels: said before and after, or refused; or it comes back."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmu_edge.io.progress import Progress
from qmu_edge.pipeline.near_duplicates import noticed
from qmu_edge.project.project import opened
from qmu_edge.queue.lifecycle import register
from qmu_edge.queue.schedule import plan
from qmu_edge.request.document import parse_request
from qmu_edge.store.ledger.states import Step
from tests.cli.conftest import RECIPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten pictures; one is there again, mirrored and brighter, and once as it is."""
    root = tmp_path_factory.mktemp("alike")
    random = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 4)):
        for name in ("cat", "dog"):
            (root / "photos" / part / name).mkdir(parents=True)
            for i in range(n):
                picture = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize(
                    (16, 16)
                )
                picture.save(root / "photos" / part / name / f"{i}.png")
    own = Image.open(root / "photos/train/cat/3.png")
    own.save(root / "photos/train/dog/copy.png")
    brighter = np.minimum(np.asarray(own), 254) + np.uint8(1)
    Image.fromarray(brighter[:, ::-1]).save(root / "photos/train/dog/again.png")
    recipe = RECIPE.replace('source = "digits"\nsize = 8', f'source = "folder"\npath = "{root / "photos"}"')
    (root / "recipe.toml").write_text(recipe, "utf-8")
    (root / "req.json").write_text(json.dumps({"sample_ids": ["train/cat/3.png"]}), "utf-8")
    return root


def dry_run(run: Any, folder: Path, project: Path) -> Any:
    return run("unlearn", "--request", folder / "req.json", "--project", project, "--dry-run", "--json")


def set_policy(project: Path, value: str) -> None:
    text = (project / "qmu.toml").read_text("utf-8")
    assert 'near_duplicates = "warn"' in text
    (project / "qmu.toml").write_text(text.replace('= "warn"', f'= "{value}"'), "utf-8")


def test_a_picture_that_looks_like_a_deleted_one_is_said_or_refused(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    assert run("init", project, "--dataset", folder / "photos", "--recipe", folder / "recipe.toml").code == 0
    shown = dry_run(run, folder, project).json
    assert shown["look_alike"] == ["train/dog/again.png"]  # the copy goes with it
    assert (shown["counts"]["near_duplicates"], shown["counts"]["copies"]) == (1, 1)
    with opened(project, Progress()) as found:
        ledger, samples, policy = found.ledger, found.samples, found.recipe.policy
        row = register(
            found, parse_request((folder / "req.json").read_bytes(), source="r", key=found.ids_key)
        )
        claim = samples.claim(ledger.open_details(Step.RESOLVED)[row.request_id])
        split = plan(found, [row], [claim], None, {}).split
        counted, alike = noticed(samples, policy, split)
        assert counted.digest() == split.digest() and len(alike) == 1  # an attempt keeps its name
        off = policy.model_copy(update={"near_duplicates": "off"})
        same, none = noticed(samples, off, split)
        assert same is split and len(none) == 0 and "near_duplicates" not in same.counts()
        assert type(split).parse(counted.to_bytes()).counts() == counted.counts()
    set_policy(project, "off")
    shown = dry_run(run, folder, project).json
    assert shown["look_alike"] == [] and "near_duplicates" not in shown["counts"]


@pytest.mark.slow
def test_the_answer_counts_them_and_a_policy_may_refuse(run: Any, folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert run("init", project, "--dataset", folder / "photos", "--recipe", folder / "recipe.toml").code == 0
    assert run("train", "--project", project, "--quiet").code == 0
    set_policy(project, "refuse")
    asked = ("unlearn", "--request", folder / "req.json", "--project", project)
    refused = run(*asked, "--quiet")
    assert refused.code == 3 and "train/dog/again.png: allowed are none" in refused.err
    with opened(project, Progress()) as found:
        assert found.ledger.tombstone_count() == 0
        (row,) = found.ledger.requests()
        assert (
            row.is_open and row.state == "received"
        )  # it can be denied, withdrawn, or served with another policy
    text = (project / "qmu.toml").read_text("utf-8")
    (project / "qmu.toml").write_text(text.replace('= "refuse"', '= "warn"'), "utf-8")
    served = run(*asked, "--json")
    assert served.code in (0, 7), served.err
    assert "1 retained images look like forgotten ones" in served.err
    if served.code == 0:
        assert served.json["counts"]["near_duplicates"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_a_later_project_notices_it_until_the_purge_and_with_a_thumbnail_after_it(
    run: Any, folder: Path, tmp_path: Path, keep: bool
) -> None:
    project, photos = tmp_path / "project", tmp_path / "photos"
    assert run("init", project, "--dataset", folder / "photos", "--recipe", folder / "recipe.toml").code == 0
    text = (project / "qmu.toml").read_text("utf-8")
    assert "keep_thumbnails = false" in text
    text = text.replace("keep_thumbnails = false", f"keep_thumbnails = {str(keep).lower()}")
    (project / "qmu.toml").write_text(text.replace("max_residual = 0.25", "max_residual = 1.0"), "utf-8")
    assert run("train", "--project", project, "--quiet").code == 0
    asked = ("unlearn", "--request", folder / "req.json", "--project", project, "--method", "retrain")
    assert run(*asked, "--quiet").code == 0
    shutil.copytree(folder / "photos", photos)
    (photos / "train/cat/3.png").unlink()
    (photos / "train/dog/copy.png").unlink()

    def again(name: str) -> Any:
        return run("init", tmp_path / name, "--dataset", photos, "--recipe", folder / "recipe.toml",
                   "--previous", project, "--json")  # fmt: skip

    noticed = "1 images look like ones that .* has deleted, the first is train/dog/again.png"
    assert re.fullmatch(noticed, again("before").json["notices"][-1])
    assert run("purge", "--project", project, "--now").code == 0
    (said,) = again("after").json["notices"][-1:]
    assert re.fullmatch(noticed if keep else "1 pictures that .* are erased.* cannot be told .*", said)
