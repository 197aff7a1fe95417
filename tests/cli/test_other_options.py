"""Files that no receipt names: exported with other options, or of a network that was trained anew."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.verify import __main__ as device
from qmu_edge.verify.metadata import METADATA_KEY
from qmu_edge.verify.onnx.reader import read
from tests.cli.refusals import ask, current, refused

CAMERA = ("--format", "integer", "--input", "uint8", "--layout", "NHWC", "--batch", "1")


def test_a_bundle_with_other_options_is_covered_by_the_receipt(
    run: Any, served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run("export", "--project", served, *CAMERA, "--bundle", tmp_path / "device", "--json", "--quiet")
    assert done.code == 0 and done.json["receipt"] == current(served, "receipt"), done.err
    assert device.main([str(tmp_path / "device"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["bundle"]
    assert about["covered"] and "the network that model.onnx comes from" in about["receipt"]
    assert about["number"].startswith("1, of 20")


def test_a_network_trained_anew_is_not_covered_and_takes_no_releases_place_unasked(
    run: Any, served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], digest: Any
) -> None:
    before = digest(served)
    refused(run("train", "--project", served, "--quiet"), 2, "has a release of another network", "--replace")
    assert digest(served) == before
    assert run("train", "--project", served, "--replace", "--quiet").code == 0
    done = run("export", "--project", served, *CAMERA, "--bundle", tmp_path / "device", "--json")
    assert done.code == 0 and done.json["receipt"] is None
    assert "no receipt covers this network: a device will say so" in done.err
    assert device.main([str(tmp_path / "device.tar")]) == 7
    printed = capsys.readouterr()
    assert "none, though 1 were issued: none covers these files" in printed.out
    assert "not covered by a receipt" in printed.err


@pytest.mark.slow
def test_a_class_deletion_is_known_for_files_with_other_options(
    run: Any, trained: Path, tmp_path: Path
) -> None:
    """Judged as the files were that the receipt names; a device is told by the data what kind it was."""
    request = ask(tmp_path, {"class_ids": [4]})
    words = (
        "unlearn",
        "--request",
        request,
        "--project",
        trained,
        "--method",
        "retrain",
        "--quiet",
        "--json",
    )
    ended = run(*words)
    assert ended.code == 0, ended.err
    assert run("export", "--project", trained, *CAMERA, "--out", tmp_path / "camera", "--quiet").code == 0
    file, data = tmp_path / "camera/model.onnx", tmp_path / "data"
    for shipped in (file, *(trained / "release").glob("*.onnx")):
        names = json.loads(read(shipped).metadata[METADATA_KEY])["classes"]
        assert names == [*"0123", "removed", *"56789"], "a class may be a person"
    found = run("verify", file, "--project", trained, "--data-out", data, "--json", "--quiet")
    assert found.code == 0, found.err
    assert found.json["request"] == ended.json["request"]
    assert found.json["note"].startswith("exported with other options from the network of the receipt")
    assert found.json["verdict"] == ended.json["report"]["verdict"]
    limits = ["--max-ta-drop", "1", "--max-ra-drop", "none"]
    sets = ["--data", data / "sets.npz", "--before", data / "original.onnx"]
    done = subprocess.run(
        [sys.executable, "-m", "qmu_edge.verify", *map(str, [file, *sets]), *limits, "--json"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["answer"] == found.json["verdict"]["answer"] == "retrained"
    assert verdict["residuals"] == found.json["verdict"]["residuals"]
