"""Receipts that do not hold, and verdicts that do not pass."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.export.targets import Format
from qmu_edge.io.digest import sha256
from qmu_edge.io.progress import Progress
from qmu_edge.pipeline.networks import Networks
from qmu_edge.pipeline.release import make_release, shipped
from qmu_edge.project.project import Project, opened
from qmu_edge.receipt.receipt import loads
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train import checkpoint
from qmu_edge.unlearn.registry import apply
from tests.cli.refusals import current, flip, refused, set_policy


def test_a_receipt_altered_by_one_byte_is_not_one_that_was_issued(run: Any, served: Path) -> None:
    path = served / "release/receipt.json"
    good = path.read_bytes()
    for at in range(0, len(good), 97):
        flip(path, at)
        ended = run("receipt", "verify", path, "--project", served)
        refused(ended, 8)
        path.write_bytes(good)
    assert run("receipt", "verify", path, "--project", served).code == 0


def test_a_receipt_is_held_against_the_files_without_a_project(
    run: Any, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Path(shutil.copytree(served / "release", tmp_path / "device"))
    monkeypatch.chdir(tmp_path)
    assert run("receipt", "verify", device / "receipt.json").code == 0
    flip(device / "model.onnx")
    refused(run("receipt", "verify", device / "receipt.json"), 8, "model.onnx")
    refused(run("receipt", "verify", device / "nothing.json"), 8, "nothing.json")


def test_a_file_that_no_receipt_names_is_measured_and_not_judged(run: Any, served: Path, digest: Any) -> None:
    with opened(served, Progress()) as project:
        before = _original(project)
    shutil.copyfile(before, served / "original.onnx")
    set_policy(served, max_ta_drop="0.0", when_not_measurable='"retrain"')
    state = digest(served)
    ended = run("verify", served / "original.onnx", "--project", served, "--quiet", "--json")
    assert ended.code == 0 and ended.json["passed"] and ended.json["evaluation"]["fa"]["n"] > 100
    assert ended.json["request"] is ended.json["verdict"] is None
    assert ended.json["note"] == "no receipt names this file or its network: it is measured, not judged"
    assert digest(served) == state


def test_a_released_file_is_judged_again_by_what_the_policy_allows_now(
    made: Any, run: Any, served: Path, digest: Any
) -> None:
    command = ("verify", served / "release/model.onnx", "--project", served, "--quiet")
    again, report = run(*command, "--json"), made.commands["unlearn"].json["report"]
    assert again.code == 0 and again.json["request"] == made.commands["unlearn"].json["request"]
    assert again.json["verdict"] == report["verdict"] and report["verdict"]["answer"] == "not_measurable"
    set_policy(served, when_not_measurable='"retrain"')
    state = digest(served)
    refusal = run(*command)
    assert refusal.code == 7 and "not measurable" in refusal.out
    assert refusal.err.splitlines() == [f"qmu-edge: {served / 'release/model.onnx'}: a threshold is not met"]
    assert digest(served) == state


def test_a_release_that_is_known_builds_no_network(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(served, Progress()) as project:
        digest, networks = project.current(Pointer.CHECKPOINT), Networks.of(project)
        monkeypatch.setattr(checkpoint, "loads", None)
        _, release = make_release(project, digest)
        args = networks, project.samples, project.recipe, project.results
        assert shipped(digest, *args) == release and len(release.files) == 3
        before = networks.origin(digest).parent
        assert shipped(sha256(before), *args) is None  # of the first there is an integer file alone
        make_release(project, sha256(before), (Format.INTEGER,))


def _original(project: Project) -> Path:
    """The exported file of the checkpoint before the request."""
    current = project.ledger.current(Pointer.RECEIPT)
    assert current is not None
    receipt = loads(project.store.get_bytes(current), current)
    before = receipt.predicate.checkpoints.before
    assert before is not None
    _, release = make_release(project, before, (Format.INTEGER,))
    return project.store.path(release.files["model.onnx"])


@pytest.mark.slow
def test_a_missed_threshold_releases_nothing_and_retraining_can_follow(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def destroyed(name: str, *args: Any) -> Any:
        tried.append(name)
        model = apply(name, *args)
        if name != "retrain":
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if parameter_name.endswith("bias") and parameter.numel() == 10:
                        parameter.copy_(torch.arange(10.0) * 1000)
        return model

    monkeypatch.setattr("qmu_edge.pipeline.distributed.apply", destroyed)
    set_policy(trained, max_ta_drop="0.12")
    before = {name: current(trained, name) for name in ("checkpoint", "release", "receipt")}
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    asked = (("--method", "finetune"), ("--method", "qmul"), ("--budget", "0.001s"))
    for words, name in zip(asked, ("finetune", "qmul", "qmul"), strict=True):
        refused(run(*command, *words), 7, name, "nothing was released", "retrain")
        assert {name: current(trained, name) for name in before} == before
        assert not (trained / "release").exists()
    (request,) = run("status", "--project", trained, "--json").json["requests"]
    assert request["outcome"] == "failed" and request["next"]
    tried.clear()
    result = run(*command, "--json")
    assert result.code == 0 and result.json["outcome"] == "retrained"
    assert tried == ["retrain"]  # what qmul came to is known
    receipt = run("receipt", "show", "--project", trained, "--json").json["receipt"]
    assert receipt["predicate"]["rungs"] == [
        {"method": "finetune", "category": "approximate", "result": "threshold_missed"},
        {"method": "qmul", "category": "approximate", "result": "threshold_missed"},
        {"method": "retrain", "category": "exact", "result": "passed"},
    ]
    assert (trained / "release/receipt.json").is_file()
    verified = run("verify", trained / "release/model.onnx", "--project", trained, "--json", "--quiet")
    assert verified.json["request"] == result.json["request"]


@pytest.mark.slow
def test_retraining_that_loses_too_much_is_told_where_that_would_be_allowed(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def poor(name: str, *args: Any) -> Any:
        model = apply(name, *args)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.shape == (10,):
                    parameter.copy_(torch.arange(10.0) * 1000)
        return model

    monkeypatch.setattr("qmu_edge.pipeline.distributed.apply", poor)
    set_policy(trained, max_ta_drop="0.12")
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet", "--method", "retrain")
    refused(run(*command), 7, "ta_drop", "trained without them", "[policy] of qmu.toml")
    set_policy(trained, max_ta_drop='"off"', max_ra_drop='"off"')
    assert run(*command).code == 0


@pytest.mark.slow
def test_what_cannot_be_measured_is_released_only_where_the_policy_says_so(
    made: Any, run: Any, trained: Path
) -> None:
    set_policy(trained, when_not_measurable='"retrain"', max_ta_drop='"off"')
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet", "--method", "qmul")
    refused(run(*command), 7, "not_measurable: no networks that never saw the images")
    assert current(trained, "receipt") is None
    found = run("status", "--project", trained, "--json").json
    assert found["deleted"] == 0 and found["barred"] > 0
    assert found["requests"][0]["next"].startswith("not passed: qmul; run qmu-edge unlearn --pending")
    set_policy(trained, when_not_measurable='"release"')
    assert run(*command).code == 0
    statement = loads((trained / "release/receipt.json").read_bytes(), trained)
    stated = statement.document()["predicate"]
    assert (stated["verdict"]["answer"], stated["verdict"]["passed"]) == ("not_measurable", True)
    assert [rung["result"] for rung in stated["rungs"]] == ["not_measurable", "passed"]
    assert run("status", "--project", trained, "--json").json["barred"] == 0


def test_a_method_that_does_nothing_is_refused_and_retraining_is_not(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str, model: Any, *args: Any) -> Any:
        return apply(name, model, *args) if name == "retrain" else model

    monkeypatch.setattr("qmu_edge.pipeline.distributed.apply", nothing)
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(run(*command, "--method", "qmul"), 7, "nothing changed: every integer weight is the original's")
    assert current(trained, "receipt") is None
    set_policy(trained, when_not_measurable='"retrain"')
    ended = run(*command, "--method", "retrain", "--json")
    assert ended.code == 0 and ended.json["outcome"] == "retrained"
    names = [check["name"] for check in ended.json["report"]["verdict"]["checks"]]
    assert names == ["ta_drop", "unchanged_codes"] and ended.json["report"]["codes_changed"]["changed"] > 0
    assert run("receipt", "verify", "--project", trained).code == 0


def test_a_method_that_diverges_is_said_and_can_be_tried_again(made: Any, run: Any, trained: Path) -> None:
    text = (trained / "qmu.toml").read_text("utf-8")
    (trained / "qmu.toml").write_text(text.replace("[unlearn.qmul]", "[unlearn.qmul]\nlr = 1e30"))
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(run(*command, "--method", "qmul"), 5)
    assert current(trained, "receipt") is None
    (trained / "qmu.toml").write_text(text)
    assert run(*command).code == 0
