"""A class that was deleted whole, where the policy takes its output out of the files that ship."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from qmu_edge.errors import ExportError
from qmu_edge.receipt.receipt import TAKEN_OUT
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.verify import __main__ as device
from qmu_edge.verify.metadata import METADATA_KEY
from qmu_edge.verify.onnx.reader import read
from tests.cli.refusals import ask, refused, set_policy
from tests.cli.test_other_options import CAMERA

NAMES = [*"0123", *"56789"]
QUIET = ("--json", "--quiet")


@pytest.fixture
def removing(trained: Path) -> Path:
    """A trained project with that policy."""
    set_policy(trained, deleted_class='"remove"')
    return trained


def without(files: list[Path], names: list[str]) -> None:
    """No file has another output, or says that there was one."""
    assert files
    for path in files:
        assert json.loads(read(path).metadata[METADATA_KEY])["classes"] == names
        graph = onnx.load(path).graph
        assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(names), path
        assert 10 not in {t.dims[0] for t in graph.initializer if t.dims}, path


def on_device(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "qmu_edge.verify", *map(str, words), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_output_of_a_deleted_class_ships_in_no_file(run: Any, removing: Path, tmp_path: Path) -> None:
    project, release = ("--project", removing), removing / "release"

    def unlearn(claim: dict[str, Any]) -> Any:
        request = ask(tmp_path, claim)
        ended = run("unlearn", "--request", request, *project, "--method", "retrain", *QUIET)
        assert ended.code == 0, ended.err
        return ended.json

    served = unlearn({"class_ids": ["4"]})
    without(sorted(release.glob("*.onnx")), NAMES)
    assert served["report"]["unlearned"]["evaluation"]["forget_predictions"][4] >= 0, "measured with all"
    receipt = run("receipt", "show", *project, "--json").json["receipt"]
    assert TAKEN_OUT in receipt["predicate"]["limits"]
    assert run("receipt", "verify", *project).code == 0

    # Files with other options, and the verdict again: here and on a device.
    assert run("export", *project, *CAMERA, "--out", tmp_path / "camera", "--quiet").code == 0
    without([tmp_path / "camera/model.onnx"], NAMES)
    data = tmp_path / "data"
    for file in (*release.glob("model*.onnx"), tmp_path / "camera/model.onnx"):
        found = run("verify", file, *project, "--data-out", data, *QUIET)
        if read(file).is_qonnx:
            continue
        assert found.code == 0, found.err
        assert found.json["verdict"] == served["report"]["verdict"]
        assert found.json["whole"] == found.json["evaluation"]["sha256"]
        sets = ["--data", data / "sets.npz", "--before", data / "original.onnx"]
        limits = ["--max-ta-drop", "1", "--max-ra-drop", "none"]
        lacking = on_device(file, *sets, *limits)
        assert lacking.returncode == 2 and "--whole" in lacking.stderr
        done = on_device(file, *sets, *limits, "--whole", data / "whole.onnx")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdict"]["residuals"] == found.json["verdict"]["residuals"]

    # A bundle, and a later request.
    bundle = tmp_path / "device"
    assert run("export", *project, *CAMERA, "--bundle", bundle, *QUIET).code == 0
    assert device.main([str(bundle), "--json"]) == 0
    unlearn({"subject_ids": ["writer-5"]})
    without(sorted(release.glob("*.onnx")), NAMES)
    attacks = [word for name in ("pair", "features", "bits") for word in ("--attack", name)]
    audited = run("audit", *project, *attacks, *QUIET)
    assert audited.code == 0, audited.err
    assert all(row["findings"] for row in audited.json["attacks"].values()), "the file with all outputs"
    unlearn({"class_ids": ["7"]})
    without(sorted(release.glob("*.onnx")), [*"0123", *"5689"])
    assert run("purge", *project, "--now").code == 0
    assert run("verify", release / "model.onnx", *project, *QUIET).code == 0
    assert run("doctor", *project).code == 0
    assert run("receipt", "verify", *project).code == 0


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_refused(run: Any, removing: Path, tmp_path: Path) -> None:
    """Another network's file, passed off as the one from which an output was taken out."""
    request = ask(tmp_path, {"class_ids": ["4"]})
    words = ("unlearn", "--request", request, "--project", removing, "--method", "retrain", *QUIET)
    assert run(*words).code == 0
    file, data = removing / "release/model.onnx", tmp_path / "data"
    assert run("verify", file, "--project", removing, "--data-out", data, *QUIET).code == 0
    sets = ["--data", data / "sets.npz", "--before", data / "original.onnx"]
    done = on_device(file, *sets, "--whole", data / "original.onnx")
    assert done.returncode == 6 and "is not that of the file with all outputs" in done.stderr
    done = on_device(data / "whole.onnx", *sets, "--whole", data / "whole.onnx")
    assert done.returncode == 6 and "10 outputs, allowed 9" in done.stderr


def test_a_network_that_mixes_its_classes_is_refused_before_anything_is_barred(
    run: Any, removing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused, and why, is shown in tests/export/test_outputs.py."""
    asked: list[int] = []

    def mixes(graph: Any, kept: Any) -> None:
        asked.append(len(kept))
        raise ExportError("no output of this network can be taken out")

    monkeypatch.setattr("qmu_edge.pipeline.release.keep_outputs", mixes)
    words = ("unlearn", "--project", removing, "--quiet")
    refused(run(*words, "--request", ask(tmp_path, {"class_ids": ["4"]})), 6, "can be taken out")
    assert asked == [1]
    with Ledger.open(removing / ".qmu/ledger.db") as ledger:
        assert not list(ledger.tombstones()) and ledger.training_images(barred=True) == 0
        (row,) = ledger.requests()
        assert row.is_open
    assert run("request", "withdraw", row.request_id, "--project", removing).code == 0
