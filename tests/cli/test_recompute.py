"""A receipt that is recomputed: the same files to the byte, or one line that says why not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from qmu_edge.pipeline import recompute as module
from qmu_edge.pipeline.circumstances import circumstances
from qmu_edge.runtime.determinism import determinism
from tests.cli.conftest import RECIPE, Ended, copied, files_of, run_command

CPU = torch.device("cpu")


def test_only_a_deterministic_run_names_its_circumstances() -> None:
    assert circumstances(CPU) is None
    with determinism(True):
        found = circumstances(CPU)
        assert found == circumstances(CPU) and found is not None
    assert found["threads"] == torch.get_num_threads() and found["device"] == "cpu"
    assert all(value and " " not in str(value) for value in found.values())


def test_an_approximate_receipt_is_refused(run: Any, served: Path) -> None:
    ended = run("receipt", "recompute", "--project", served)
    assert ended.code == 2 and ended.err == (
        "qmu-edge: receipt: cannot be recomputed: its method qmul is approximate, allowed is exact\n"
    )


def retrained(project: Path, subject: str, *more: str) -> None:
    request = project.parent / f"{subject}-{len(more)}.json"
    assert run_command("request", "new", "--subject", subject, "--out", request).code == 0
    words = ("unlearn", "--request", request, "--project", project, "--method", "retrain")
    ended = run_command(*words, *more)
    assert ended.code == 0, ended.err


def recomputed(project: Path, *more: object) -> Ended:
    return run_command("receipt", "recompute", "--project", project, "--quiet", *more)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose one receipt is exact and deterministic."""
    folder = tmp_path_factory.mktemp("exact")
    (folder / "tiny.toml").write_text(RECIPE, "utf-8")
    project = folder / "project"
    for words in (("init", project, "--recipe", folder / "tiny.toml"), ("train", "--project", project)):
        assert run_command(*words).code == 0
    retrained(project, "writer-3", "--deterministic")
    yield project


@pytest.mark.slow
def test_it_gives_the_same_files_and_changes_nothing(exact: Path) -> None:
    before = files_of(exact)
    ended = recomputed(exact, "--json")
    assert ended.code == 0, ended.err
    shown = run_command("receipt", "show", "--project", exact, "--json").json["receipt"]
    assert ended.json["files"] == {f["name"]: f["digest"]["sha256"] for f in shown["subject"]}
    assert ended.json["computed_with"] == shown["predicate"]["method"]["parameters"]["computed_with"]
    assert files_of(exact) == before


@pytest.mark.slow
def test_another_result_is_told(exact: Path) -> None:
    other = module._again

    def seeded(*args: Any) -> Any:
        return replace(other(*args), seed=7)

    with patch.object(module, "_again", seeded):
        ended = recomputed(exact)
    assert (
        ended.code == 8 and "model.onnx: recomputed it is " in ended.err and "the receipt says" in ended.err
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "changed", "told"),
    [
        ("versions", {"torch": "1.0"}, "versions: torch is 1.0, the receipt says "),
        ("circumstances", {"threads": 99}, "computed_with: threads is 99, the receipt says "),
        ("circumstances", {"processor": "other"}, "computed_with: processor is other, the receipt says "),
    ],
)
def test_another_machine_is_refused(exact: Path, where: str, changed: dict[str, Any], told: str) -> None:
    true = getattr(module, where)
    with patch.object(module, where, lambda *args: {**true(*args), **changed}):
        ended = recomputed(exact)
    assert ended.code == 2 and f"cannot be recomputed here: {told}" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.slow
def test_what_was_deleted_since_is_refused(exact: Path, tmp_path: Path) -> None:
    project = copied(exact, tmp_path / "project")
    first = tmp_path / "first.json"
    first.write_bytes((project / "release/receipt.json").read_bytes())
    retrained(project, "writer-4")
    ended = recomputed(project)
    assert ended.code == 2 and ended.err.endswith("it was not made with --deterministic\n")
    ended = recomputed(project, first)
    assert ended.code == 4 and "samples that it kept were deleted since" in ended.err
    assert run_command("purge", "--now", "--project", project).code == 0
    ended = recomputed(project, first)
    assert ended.code == 4 and ended.err.endswith("the sets that it was trained on are purged\n")


@pytest.mark.slow
def test_another_recipe_is_refused(exact: Path, tmp_path: Path) -> None:
    project = copied(exact, tmp_path / "project")
    text = (project / "qmu.toml").read_text("utf-8")
    (project / "qmu.toml").write_text(text.replace("epochs = 2", "epochs = 3", 1), "utf-8")
    ended = recomputed(project)
    assert ended.code == 2 and "cannot be recomputed here: recipe: digest is " in ended.err
