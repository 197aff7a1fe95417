"""References from end to end: trained with the network, used by verdicts, trained again after a deletion."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest

from qmu_edge.io.progress import Progress
from qmu_edge.pipeline.references import Bank
from qmu_edge.project.project import opened
from qmu_edge.receipt.receipt import loads
from tests.cli.conftest import ONCE, SUBJECT, Ended, copied, run_command
from tests.cli.refusals import ask, refused, set_policy


class Made(NamedTuple):
    """A project with references; only its copies may be changed."""

    project: Path
    train: Ended


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("once")
    (folder / "once.toml").write_text(ONCE, "utf-8")
    assert run_command("init", folder / "project", "--recipe", folder / "once.toml").code == 0
    train = run_command("train", "--project", folder / "project", "--json", "--quiet")
    assert train.code == 0, train.err
    return Made(folder / "project", train)


@pytest.fixture
def project(once: Made, tmp_path: Path) -> Path:
    return copied(once.project, tmp_path / "project")


def unlearn(project: Path, document: dict[str, Any], *more: object) -> Ended:
    request = ask(project.parent, document)
    return run_command("unlearn", "--request", request, "--project", project, "--quiet", "--json", *more)


def one_image(project: Path) -> dict[str, Any]:
    with opened(project, Progress()) as found:
        return {"sample_ids": [found.samples.index.ids[found.samples.trainable()[0]]]}


def test_training_makes_them_and_says_what_verdicts_can_show(run: Any, once: Made) -> None:
    built = once.train.json["references"]
    assert (built["references"], built["trained"], built["networks"]) == (3, 3, 2)
    assert [*built["detects"]] == [*built["proves"]] == ["1", "5", "20", "100", "500"]
    shown = run("status", "--project", once.project, "--json").json
    assert "epochs = 2 leaves more to measure" in shown["verdicts"].pop("why")
    assert shown["verdicts"] == {key: built[key] for key in ("networks", "detects", "proves")}
    assert "verdicts" in run("status", "--project", once.project).out


def test_they_are_built_where_they_are_missing_and_asked_for(run: Any, project: Path, once: Made) -> None:
    command = ("references", "build", "--project", project, "--quiet")
    again = run(*command, "--json")
    assert again.code == 0 and again.json == {**once.train.json["references"], "trained": 0}
    with opened(project, Progress()) as found:
        note = found.results.bank(1)
        assert note is not None
        found.store.path(note.scores).unlink()
    doctor = run("doctor", "--project", project, "--json")
    assert doctor.code != 0 and len(doctor.json["problems"]) == 1
    assert run(*command, "--json").json["trained"] == 1
    assert run("doctor", "--project", project).code == 0
    text = (project / "qmu.toml").read_text("utf-8")
    (project / "qmu.toml").write_text(text.replace('trained = "once"', 'trained = "never"'))
    refused(run(*command), 2, 'where [references] says trained = "once"')


def test_one_image_cannot_be_shown_to_be_forgotten_and_is_trained_without(run: Any, project: Path) -> None:
    document = one_image(project)
    preview = unlearn(project, document, "--dry-run").json
    assert preview["rungs"] == ["retrain"] and preview["rungs_forced_by"] == preview["verdict"]
    assert preview["verdict"].startswith("1 images and 2 references: detects a full trace with ")
    request = ask(project.parent, document)
    text = run("unlearn", "--request", request, "--project", project, "--dry-run", "--quiet").out
    assert preview["verdict"] in text
    ended = unlearn(project, document)
    assert ended.code == 0 and ended.json["outcome"] == "retrained", ended.err
    verdict = ended.json["report"]["verdict"]
    assert (verdict["answer"], verdict["passed"]) == ("retrained", True)
    assert [residual["n"] for residual in verdict["residuals"]] == [1]  # for information
    assert run("receipt", "verify", "--project", project).code == 0
    assert run("references", "build", "--project", project, "--json", "--quiet").json["trained"] == 0
    with opened(project, Progress()) as found:  # it was trained again before the receipt
        gone, used = found.samples.barred(), Bank.of(found).usable()
        assert gone.any() and len(used) == 3 and not any((one.members & gone).any() for one in used)


def verdict_on_a_device(project: Path, file: Path, folder: Path) -> Any:
    """By the two files, the images and the references alone; what may be released is no matter."""
    words = ("verify", file, "--project", project, "--data-out", folder, "--quiet")
    assert run_command(*words).code == 0
    limits = ["--max-residual", "1", "--max-ta-drop", "1", "--max-ra-drop", "none"]
    data = ["--data", folder / "sets.npz", "--before", folder / "original.onnx"]
    done = subprocess.run(
        [sys.executable, "-m", "qmu_edge.verify", *map(str, [file, *data]), *limits, "--json"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 7), done.stderr
    return json.loads(done.stdout)["verdict"]


@pytest.mark.slow
def test_a_released_file_is_judged_again_until_its_images_are_purged(
    run: Any, project: Path, tmp_path: Path
) -> None:
    set_policy(project, when_not_measurable='"release"', max_residual="1.0")
    ended = unlearn(project, {"subject_ids": [SUBJECT]}, "--method", "qmul")
    assert ended.code == 0, ended.err
    verdict = ended.json["report"]["verdict"]
    (left,) = verdict["residuals"]
    assert left["n"] == ended.json["counts"]["forget"] > 100 and left["references"] == 2
    assert left["effective"] <= left["n"]
    file = project / "release/model.onnx"
    again = run("verify", file, "--project", project, "--json", "--quiet")
    assert again.code == 0 and again.json["verdict"] == verdict
    assert again.json["request"] == ended.json["request"]
    assert verdict_on_a_device(project, file, tmp_path / "data") == {**verdict, "passed": ANY}
    stated = loads((project / "release/receipt.json").read_bytes(), file).document()["predicate"]["verdict"]
    assert stated["answer"] == verdict["answer"]
    assert stated["residuals"] == [{k: left[k] for k in stated["residuals"][0]}]
    assert run("purge", "--project", project, "--now").code == 0
    refused(run("verify", file, "--project", project, "--data-out", tmp_path / "no", "--quiet"), 2, "stored")
    purged = run("verify", file, "--project", project, "--json", "--quiet")
    assert purged.code == 0 and purged.json["verdict"] is None and "purged" in purged.json["note"]
    assert run("doctor", "--project", project, "--json").json["problems"] == []
    assert run("references", "build", "--project", project, "--json", "--quiet").json["trained"] == 0


@pytest.mark.slow
def test_those_of_one_request_are_trained_for_it(run: Any, once: Made, tmp_path: Path) -> None:
    project = Path(shutil.copytree(once.project, tmp_path / "project", symlinks=True))
    text = (project / "qmu.toml").read_text("utf-8")
    (project / "qmu.toml").write_text(text.replace('trained = "once"', 'trained = "per_request"'))
    set_policy(project, when_not_measurable='"release"', max_residual="1.0")
    ended = unlearn(project, {"subject_ids": [SUBJECT]}, "--method", "qmul")
    assert ended.code == 0, ended.err
    (left,) = ended.json["report"]["verdict"]["residuals"]
    assert left["references"] == 3
    assert json.loads(ended.out)["report"]["terms"]["references"] == 3


@pytest.mark.slow
def test_a_refusal_for_want_of_references_is_not_remembered_once_they_are_built(
    run: Any, project: Path
) -> None:
    with opened(project, Progress()) as found, found.locked():
        for shard in found.results.banks():
            found.results.note_bank(shard, None)
        found.results.note_sensitivity(None)
    first = unlearn(project, {"subject_ids": [SUBJECT]}, "--method", "qmul")
    refused(first, 7, "no networks that never saw the images: qmu-edge references build trains them")
    assert run("references", "build", "--project", project, "--quiet").code == 0
    again = run_command(
        "unlearn",
        "--request",
        project.parent / "asked.json",
        "--project",
        project,
        "--quiet",
        "--method",
        "qmul",
    )
    assert again.code in (0, 7) and "references build" not in again.err
