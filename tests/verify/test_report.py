"""Evaluation and verdict, the .npz readers, and the command with its exit codes."""

import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, IntegrityError, QmuEdgeError
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.arrays import read_golden, read_npz, read_sets
from qmu_edge.verify.evaluation import Accuracy, Evaluation, evaluate, evaluation_from_json, to_json
from qmu_edge.verify.mia import Auc
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Reference, Thresholds, forgotten_class, from_retrained, held_out, judge

Sets = dict[str, tuple[NDArray[Any], NDArray[Any]]]


def _evaluation(fa: float, ta: float, ra: float = 0.95, auc: float = 0.5) -> Evaluation:
    return Evaluation(
        sha256="0" * 64,
        bytes=1000,
        seconds=0.5,
        fa=Accuracy(fa, 100, fa - 0.05, fa + 0.05),
        ta=Accuracy(ta, 100, ta - 0.05, ta + 0.05),
        ra=Accuracy(ra, 100, ra - 0.05, ra + 0.05),
        mia_auc=Auc(auc, auc - 0.1, auc + 0.1),
        forget_predictions=(60, 40),
        mean_confidence={"forget": 0.7},
    )


@pytest.fixture
def model_and_sets(make: Any, save: Callable[..., Path]) -> tuple[Path, Sets]:
    """Make a file and sets on which its accuracy is 3/4."""
    path = save(make.qcdq())
    chance, sets = np.random.default_rng(0), {}
    for name in ("forget", "retain", "test", "validation"):
        images = chance.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
        labels = OrtRunner(path).logits(images).argmax(axis=1)
        labels[::4] = (labels[::4] + 1) % 5
        sets[name] = (images, labels)
    return path, sets


def _write(path: Path, sets: Sets) -> Path:
    arrays: dict[str, Any] = {}
    for name, (images, labels) in sets.items():
        arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(path, **arrays)
    return path


def test_evaluate(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    found, logits = evaluate(path, sets)
    assert [found.fa and found.fa.value, found.va and found.va.value] == [0.75, 0.75]
    assert found.bytes == path.stat().st_size and found.mia_auc is not None
    assert sum(found.forget_predictions or ()) == 40 and set(logits) == set(sets)
    again = evaluation_from_json(json.loads(json.dumps(to_json(found))))
    assert again == found
    only, _ = evaluate(OrtRunner(path), {"test": sets["test"]})
    assert only.fa is None and only.mia_auc is None
    assert evaluation_from_json(json.loads(json.dumps(to_json(only)))) == only
    with pytest.raises(ConfigError, match="train"):
        evaluate(path, {"train": sets["test"]})
    for broken in ({}, {"fa": 3}, to_json(found) | {"extra": 1}):
        with pytest.raises(IntegrityError):
            evaluation_from_json(broken)


def test_over_unlearning_fails_as_under_unlearning_does() -> None:
    reference = held_out(_evaluation(0.9, 0.9))
    for fa, passed in ((0.9, True), (0.95, True), (0.85, True), (0.96, False), (0.84, False)):
        assert judge(_evaluation(fa, 0.9), reference, Thresholds()).passed is passed


def test_drops_are_measured_against_the_original() -> None:
    original = _evaluation(1.0, 0.93, ra=1.0)
    new = _evaluation(0.9, 0.9, ra=0.96)
    verdict = judge(new, held_out(new, original), Thresholds(), original)
    assert [(c.name, c.passed) for c in verdict.checks] == [
        ("fa_gap", True),
        ("ta_drop", False),
        ("ra_drop", True),
        ("mia_auc_gap", True),
    ]
    # better than the original is no drop
    assert judge(_evaluation(0.9, 0.99), held_out(new, original), Thresholds(), original).passed


def test_references() -> None:
    retrained = _evaluation(0.8, 0.9, auc=0.55)
    assert from_retrained(retrained) == Reference(kind="retrained", fa=0.8, ta=0.9, ra=0.95, mia_auc=0.55)
    assert judge(retrained, from_retrained(retrained), Thresholds()).passed
    gone = judge(_evaluation(0.0, 0.9, auc=0.0), forgotten_class(), Thresholds())
    assert gone.passed and [c.name for c in gone.checks] == ["fa_gap"]
    with pytest.raises(ConfigError, match="no test or validation"):
        held_out(replace(retrained, ta=None))


def test_what_was_not_measured_does_not_pass() -> None:
    blind = replace(_evaluation(0.9, 0.9), fa=None)
    verdict = judge(blind, held_out(blind), Thresholds())
    assert not verdict.passed and verdict.checks[0].value is None
    off = Thresholds(max_fa_gap=None, max_mia_auc_gap=None)
    assert not judge(blind, held_out(blind), off).passed  # nothing was checked at all


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "sets.npz"
    np.savez_compressed(path, forget_images=np.zeros((100, 1, 1000, 1000), np.uint8))
    assert path.stat().st_size < 2**18
    with pytest.raises(IntegrityError, match="arrays of 100000128 bytes, allowed 64 of 67108864"):
        read_sets(path)


def test_npz_readers(tmp_path: Path, model_and_sets: tuple[Path, Sets]) -> None:
    _, sets = model_and_sets
    path = _write(tmp_path / "sets.npz", sets)
    assert set(read_sets(path)) == set(sets)
    with pytest.raises(IntegrityError, match="allowed 64 of 100"):
        read_npz(path, max_bytes=100)
    with pytest.raises(ConfigError, match="no such file"):
        read_sets(tmp_path / "absent.npz")
    with pytest.raises(ConfigError, match="allowed images and float logits"):
        read_golden(path)
    np.savez(path, forget_images=sets["test"][0])
    with pytest.raises(ConfigError, match="allowed pairs"):
        read_sets(path)
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(IntegrityError):
        read_npz(path)
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    for header, found in ((huge, "1099511627776"), (b"(", "readable"), (b"{'descr': 'x'}", "format 1.0")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header)
        with pytest.raises(IntegrityError, match=found):
            read_npz(path)


def test_damaged_npz_only_raises_our_errors(tmp_path: Path) -> None:
    path, chance = tmp_path / "sets.npz", random.Random(0)
    np.savez_compressed(path, test_images=np.arange(60), test_labels=np.arange(3))
    honest = path.read_bytes()
    for _ in range(600):
        data = bytearray(honest[: chance.choice([len(honest), chance.randrange(len(honest))])])
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            read_sets(path)
        except QmuEdgeError:
            pass


def test_command(
    tmp_path: Path, model_and_sets: tuple[Path, Sets], capsys: pytest.CaptureFixture[str]
) -> None:
    model, sets = model_and_sets
    assert main([str(model)]) == 0
    assert "latent weights  none in 2 weight tensors" in capsys.readouterr().out
    data = str(_write(tmp_path / "sets.npz", sets))
    loose = ["--max-mia-auc-gap", "none"]
    assert main([str(model), "--data", data, "--before", str(model), "--json", *loose]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] and len(result["verdict"]["checks"]) == 3
    assert main([str(model), "--data", data, "--retrained", str(model)]) == 0
    assert "TA              75.00%" in capsys.readouterr().out
    assert main([str(model), "--data", data, "--forgotten-class"]) == 7
    printed = capsys.readouterr()
    assert "fa_gap          0.7500, allowed 0.0500: FAILED" in printed.out
    assert "a threshold is not met" in printed.err
    with pytest.raises(SystemExit, match="2"):
        main([str(model), "--max-fa-gap", "7"])


def test_command_golden_and_errors(
    tmp_path: Path,
    model_and_sets: tuple[Path, Sets],
    capsys: pytest.CaptureFixture[str],
    brevitas_exports: dict[str, Path],
) -> None:
    model, sets = model_and_sets
    images = sets["test"][0]
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


_HEAVY = ("torch", "onnx", "qonnx", "brevitas", "sklearn", "scipy", "pydantic", "jaxtyping")
_BLOCKED = f"""
import runpy, sys
for name in {_HEAVY}:
    sys.modules[name] = None
sys.argv = ["verify", *sys.argv[1:]]
runpy.run_module("qmu_edge.verify", run_name="__main__")
"""


def test_runs_without_anything_heavy(tmp_path: Path, model_and_sets: tuple[Path, Sets]) -> None:
    model, sets = model_and_sets
    data = str(_write(tmp_path / "sets.npz", sets))
    arguments = [str(model), "--data", data, "--retrained", str(model), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"]


def test_the_block_can_fail() -> None:
    code = _BLOCKED.replace("import runpy, sys", "import runpy, sys\nsys.modules['numpy'] = None")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "numpy" in done.stderr


def test_nothing_heavy_is_imported() -> None:
    code = f"import sys, qmu_edge.verify.__main__\nprint([name for name in {_HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
