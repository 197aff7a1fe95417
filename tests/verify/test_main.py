"""The command `python -m qmu_edge.verify`: what it prints, how it ends, what it needs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ConfigError
from qmu_edge.receipt.envelope import key_name
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.session import OrtRunner
from tests.verify import files
from tests.verify.bundles import KEY, write
from tests.verify.files import write_sets

ModelAndSets = tuple[Path, dict[SetName, Labelled]]


def test_a_file_is_judged_on_its_data(
    tmp_path: Path, model_and_sets: ModelAndSets, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, sets = model_and_sets
    assert main([str(model)]) == 0
    assert "latent weights  none in 2 weight tensors" in capsys.readouterr().out
    data = str(write_sets(tmp_path / "sets.npz", sets))
    assert main([str(model), "--data", data]) == 0
    assert "TA              75.00%" in capsys.readouterr().out
    before = [str(model), "--data", data, "--before", str(model)]
    assert main([*before, "--json", "--max-ra-drop", "none"]) == 7
    result = json.loads(capsys.readouterr().out)
    assert not result["passed"] and result["verdict"]["answer"] == "not_measurable"
    assert [check["name"] for check in result["verdict"]["checks"]] == ["ta_drop", "unchanged_codes"]
    assert main([*before[:2], str(known), *before[3:], "--max-residual", "0.1"]) == 7
    printed = capsys.readouterr()
    assert re.search(r"^residual        1\.0000 \(.* to .*\), allowed 0\.1000: FAILED$", printed.out, re.M)
    assert "\nanswer          still_present\n" in printed.out
    assert "a threshold is not met" in printed.err
    assert main([*before, "--forgotten-class"]) == 7
    assert "allowed 0.2500: FAILED\nunchanged_codes" in capsys.readouterr().out
    for words in (["--max-residual", "7"], ["--max-residual", "none"], ["--optimization", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main([str(model), *words])


def test_golden_inputs_and_exit_codes(
    tmp_path: Path,
    model_and_sets: ModelAndSets,
    capsys: pytest.CaptureFixture[str],
    brevitas_exports: dict[str, Path],
) -> None:
    model, sets = model_and_sets
    images = sets[SetName.TEST].images
    golden = tmp_path / "golden.npz"
    logits = OrtRunner(model).logits(images)
    np.savez(golden, images=images, logits=logits)
    few = ["--golden", str(golden), "--min-golden", "40"]
    assert main([str(model), *few]) == 0
    assert main([str(model), *few[:2]]) == 6  # 40 inputs say too little
    np.savez(golden, images=images, logits=-logits)
    assert main([str(model), *few]) == 6
    assert main([str(tmp_path / "absent.onnx")]) == 4
    assert main([str(model), "--data", "absent.npz"]) == 2
    capsys.readouterr()
    assert main([str(brevitas_exports["qonnx"])]) == 6
    printed = capsys.readouterr()
    assert not printed.out and "latent-weight gate" in printed.err


def test_a_bundle_is_told_by_its_name_and_reported(
    tmp_path: Path, model_and_sets: ModelAndSets, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = model_and_sets
    write(tmp_path / "bundle", model)
    for path in (tmp_path / "bundle", tmp_path / "bundle.tar"):
        assert main([str(path), "--json", "--junit", str(tmp_path / "junit.xml")]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["passed"] and found["parity"]["max_abs_difference"] == 0.0
        about = found["bundle"]
        assert about["files"] == 6 and about["peak_mb"] > 1
        assert about["signature"].startswith("valid, key ") and "came with the bundle" in about["signature"]
        assert (about["vouched_by"], about["covered"]) == (None, True)
        assert {"p50", "p95", "p99"} == set(about["latency_ms"]["batch 1"])
        suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
        assert [c.get("name") for c in suite] == [
            "model file policy",
            "latent weights",
            "digests",
            "receipt",
            "parity",
        ]
        assert suite.get("failures") == "0"
    assert main([str(tmp_path / "bundle")]) == 0
    printed = capsys.readouterr().out
    assert "6 files as the manifest says" in printed
    assert "nobody vouches for it" in printed.splitlines()[-1]
    public = KEY.public_key().public_bytes_raw()
    (tmp_path / "key.pub").write_text(public.hex())
    assert main([str(tmp_path / "bundle"), "--key", str(tmp_path / "key.pub"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["vouched_by"] == key_name(public)


_HEAVY = ("torch", "onnx", "qonnx", "brevitas", "sklearn", "scipy", "pydantic", "jaxtyping")
_BLOCKED = f"""
import runpy, sys
for name in {_HEAVY}:
    sys.modules[name] = None
sys.argv = ["verify", *sys.argv[1:]]
runpy.run_module("qmu_edge.verify", run_name="__main__")
"""


def test_runs_without_anything_heavy(known: Path, model_and_sets: ModelAndSets) -> None:
    model, _ = model_and_sets
    arguments = [str(model), "--data", str(known), "--before", str(model), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (7, f"qmu_edge.verify: {model}: a threshold is not met\n")
    assert json.loads(done.stdout)["verdict"]["answer"] == "still_present"


def test_the_block_can_fail() -> None:
    code = _BLOCKED.replace("import runpy, sys", "import runpy, sys\nsys.modules['numpy'] = None")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "numpy" in done.stderr


def test_an_operator_that_never_ends_is_ended(tmp_path: Path) -> None:
    """The gate is taken away: the time limit must reach into the runtime."""
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "v": TensorProto.FLOAT}
    values = {n: helper.make_tensor_value_info(n, kind, []) for n, kind in kinds.items()}
    ends = [helper.make_tensor_value_info(n, kinds[n[0]], []) for n in ("c2", "v2")]
    steps = [helper.make_node("Identity", [n], [f"{n}2"]) for n in "cv"]
    model = files.qcdq()
    body = helper.make_graph(steps, "body", [*values.values()], ends)
    model.graph.node.append(helper.make_node("Loop", ["rounds", "go", "one"], ["z"], body=body))
    model.graph.node.append(helper.make_node("Add", ["y0", "z"], ["y"]))
    model.graph.node[-3].output[0] = "y0"
    for name, value in (("rounds", np.array(2**62)), ("go", np.array(True)), ("one", np.float32(1))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = files.write(tmp_path / "loop.onnx", model)
    golden = tmp_path / "g.npz"
    np.savez(golden, images=np.zeros((1, 3, 8, 8), np.uint8), logits=np.zeros((1, 5), np.float32))
    code = (
        "import sys; from qmu_edge.verify import session, verification\n"
        "session.require_bounded = verification.require_bounded = lambda *_: None\n"
        "from qmu_edge.verify.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    junit = tmp_path / "junit.xml"
    done = subprocess.run(
        [sys.executable, "-c", code, path, "--golden", golden, "--timeout", "2", "--junit", junit],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert done.stderr == f"qmu_edge.verify: {path}: not verified within 2 s; --timeout allows more\n"
    assert ElementTree.parse(junit).getroot().get("failures") == "1"


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e30", "0", "-1"])
def test_a_time_limit_that_would_never_end_it_is_refused(seconds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), f"--timeout={seconds}"])


def test_what_the_machine_lacks_is_one_line(
    model_and_sets: ModelAndSets, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = model_and_sets
    for junit in (str(model.parent), "/nowhere/junit.xml"):
        assert main([str(model), "--junit", junit]) == ConfigError.exit_code
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == (
            "",
            1,
        ) and f"{junit}: cannot be written" in printed.err
    for error, code, said in ((MemoryError(), 2, "not enough memory"), (KeyboardInterrupt(), 130, "interr")):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("qmu_edge.verify.__main__.verify_file", fail)
        assert main([str(model)]) == code
        assert said in (told := capsys.readouterr().err) and told.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_result_that_cannot_be_printed_is_not_taken_for_one(model_and_sets: ModelAndSets) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qmu_edge.verify", model_and_sets[0]],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "No space left" in done.stderr
