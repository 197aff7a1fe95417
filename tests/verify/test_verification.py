"""The verification of a file and of a bundle: what it finds, and what its JSON holds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify import verification
from qmu_edge.verify.bundle import read_bundle
from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.onnx.graph import Dialect
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.residual import Scope
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Answer, Verdict
from qmu_edge.verify.verification import Options, verify_bundle, verify_file, verify_structure
from tests.opens import counted
from tests.verify import bundles, files
from tests.verify.bundles import LIMITS

ModelAndSets = tuple[Path, dict[SetName, Labelled]]
KEYS = (
    "file", "sha256", "bytes", "format", "opset_imports", "latent_weights", "obstacles", "parity",
    "evaluation", "verdict", "passed",
)  # fmt: skip


def test_the_structure_alone(tmp_path: Path) -> None:
    for model, dialect in ((files.qcdq(), Dialect.ONNX), (files.qonnx(), Dialect.QONNX)):
        path = files.write(tmp_path / "model.onnx", model)
        found = verify_structure(read(path))
        assert (found.file, found.bytes, found.format) == (str(path), path.stat().st_size, dialect)
        assert found.passed and found.verdict is None and len(found.latent_weights.weights) == 2
        assert verify_file(path, Options()) == found


def test_json_has_the_same_keys_in_the_same_order(tmp_path: Path) -> None:
    path = files.write(tmp_path / "model.onnx", files.qcdq())
    document = json.loads(json.dumps(verify_file(path, Options()).to_json()))
    assert tuple(document) == KEYS
    assert [document[name] for name in ("format", "parity", "verdict", "passed")] == [
        "onnx",
        None,
        None,
        True,
    ]
    bundles.write(tmp_path / "bundle", path)
    assert tuple(verify_bundle(read_bundle(tmp_path / "bundle"), Options()).to_json()) == (*KEYS, "bundle")


def judged(model: Path, data: Path, **options: Any) -> Verdict:
    """The verdict of a file that is held against itself."""
    found = verify_file(model, Options(data=data, before=model, **options))
    assert found.verdict is not None and found.evaluation is not None
    assert found.passed == found.verdict.passed == found.to_json()["passed"]
    return found.verdict


def test_a_file_alone_is_measured_and_not_judged(model_and_sets: ModelAndSets, known: Path) -> None:
    found = verify_file(model_and_sets[0], Options(data=known))
    assert found.evaluation and found.evaluation.fa and found.evaluation.fa.value == 1.0
    assert found.verdict is None and found.passed


def test_a_file_beside_the_original_is_judged_by_what_the_data_hold(
    model_and_sets: ModelAndSets, known: Path, tmp_path: Path
) -> None:
    model, sets = model_and_sets
    itself = judged(model, known)
    assert [c.name for c in itself.checks] == ["ta_drop", "ra_drop", "residual", "unchanged_codes"]
    assert [c.passed for c in itself.checks] == [True, True, False, False]
    (left,) = itself.residuals
    assert left.value == 1.0 and left.references == 3 and left.detected and left.n == 40
    assert itself.answer is Answer.STILL_PRESENT and not itself.passed
    bare = judged(model, files.write_sets(tmp_path / "sets.npz", sets))
    assert bare.answer is Answer.NOT_MEASURABLE and "no networks that never saw" in bare.why
    whole = judged(model, known, forgotten_class=True)
    assert whole.answer is Answer.STILL_PRESENT and [r.scope for r in whole.residuals] == [Scope.CLASSES]
    few = files.write_sets(tmp_path / "few.npz", {SetName.RETAIN: sets[SetName.RETAIN]})
    assert judged(model, few).answer is None


def test_scores_are_means_over_the_views_that_the_data_name(
    model_and_sets: ModelAndSets, known: Path, tmp_path: Path
) -> None:
    model, _ = model_and_sets
    with np.load(known) as arrays:
        np.savez(tmp_path / "one.npz", **{**arrays, "flip": np.array(0)})
    two, one = (judged(model, data).residuals[0] for data in (known, tmp_path / "one.npz"))
    assert two.excess_before != one.excess_before


def test_a_file_that_forgot_a_class_passes(model_and_sets: ModelAndSets, tmp_path: Path) -> None:
    model, sets = model_and_sets
    (gone,) = np.unique(OrtRunner(model).logits(sets[SetName.FORGET].images).argmax(axis=1))
    proto = files.qcdq()
    for name, change in (("bias", -1000.0), ("fc.w", 1)):
        values = files.value_of(proto, name)
        values[gone] = values[gone] + change if name == "bias" else np.sign(values[gone]) * -change
        files.replace(proto, name, values)
    other = files.write(tmp_path / "other.onnx", proto)
    labels = {name: np.full(40, gone if name is SetName.FORGET else 0) for name in sets}
    data = files.write_sets(
        tmp_path / "class.npz", {n: Labelled(images, labels[n]) for n, (images, _) in sets.items()}
    )
    options = Options(data=data, before=model, forgotten_class=True)
    found = verify_file(other, options)
    assert found.verdict and found.verdict.answer is Answer.FORGOTTEN and found.passed
    assert found.verdict.residuals[0].value == 0.0
    without = verify_file(other, replace(options, forgotten_class=False))
    assert without.verdict and without.verdict.answer is Answer.NOT_MEASURABLE and not without.passed


def test_golden_logits_must_agree(model_and_sets: ModelAndSets, tmp_path: Path) -> None:
    model, sets = model_and_sets
    images = sets[SetName.TEST].images
    golden = tmp_path / "golden.npz"
    np.savez(golden, images=images, logits=OrtRunner(model).logits(images))
    found = verify_file(model, Options(golden=golden, min_golden=40))
    assert found.parity and (found.parity.n, found.parity.agreement) == (40, 1.0)
    with pytest.raises(ExportError, match="measured on 40 inputs, allowed at least 1000"):
        verify_file(model, Options(golden=golden))


def test_of_a_bundles_thresholds_and_those_asked_for_the_stricter_count(
    model_and_sets: ModelAndSets, known: Path, tmp_path: Path
) -> None:
    model, _ = model_and_sets
    bundles.write(tmp_path / "bundle", model)

    def allowed(**limits: float | None) -> dict[str, float]:
        found = verify_bundle(
            read_bundle(tmp_path / "bundle"), Options(data=known, before=model, limits=limits)
        )
        assert found.verdict
        return {c.name: c.allowed for c in found.verdict.checks if c.name != "unchanged_codes"}

    own = {"ta_drop": LIMITS.max_ta_drop, "residual": LIMITS.max_residual}
    assert allowed() == allowed(max_residual=0.9, max_ta_drop=None) == own
    assert allowed(max_residual=0.1, max_ta_drop=0.0) == {"ta_drop": 0.0, "residual": 0.1}
    assert allowed(max_ra_drop=0.5) == {**own, "ra_drop": 0.5}
    given = Options(data=known, before=model, limits={"max_residual": 0.0})
    alone, bundled = verify_file(model, given), verify_bundle(read_bundle(tmp_path / "bundle"), given)
    assert alone.verdict and [c.allowed for c in alone.verdict.checks[:3]] == [0.02, 0.05, 0.0]
    assert (bundled.file, alone.file) == ("model.onnx", str(model))
    assert replace(bundled, file=alone.file, bundle=None).latent_weights == alone.latent_weights


def test_every_model_file_of_a_bundle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = files.qcdq(), files.qcdq()
    same.producer_name = "another"
    scale = next(t for t in other.graph.initializer if t.name == "s2")
    scale.CopyFrom(numpy_helper.from_array(np.array(-0.05, np.float32), "s2"))
    qonnx = files.qonnx()
    model = files.qcdq().SerializeToString()
    beside = {"same.onnx": same.SerializeToString(), "foreign.onnx": qonnx.SerializeToString()}
    bundles.write_files(tmp_path / "good", {"model.onnx": model, **beside})
    found = verify_bundle(read_bundle(tmp_path / "good"), Options()).bundle
    assert (
        found is not None and found.others["foreign.onnx"] == "not run: onnxruntime has no operators of QONNX"
    )
    same_as = found.others["same.onnx"]
    assert not isinstance(same_as, str) and same_as.agreement == 1.0
    monkeypatch.setattr(verification, "lacking", lambda file: "needs onnxruntime 1.99 or newer")
    found = verify_bundle(read_bundle(tmp_path / "good"), Options()).bundle
    assert found is not None and found.others["same.onnx"] == "not run: needs onnxruntime 1.99 or newer"
    monkeypatch.undo()
    bundles.write_files(tmp_path / "bad", {"model.onnx": model, "other.onnx": other.SerializeToString()})
    with pytest.raises(ExportError, match="parity"):
        verify_bundle(read_bundle(tmp_path / "bad"), Options())


def test_each_file_that_is_given_is_read_once(
    model_and_sets: ModelAndSets, known: Path, tmp_path: Path
) -> None:
    model, sets = model_and_sets
    images = sets[SetName.TEST].images
    np.savez(tmp_path / "golden.npz", images=images, logits=OrtRunner(model).logits(images))
    (tmp_path / "before.onnx").write_bytes(model.read_bytes())
    options = Options(
        data=known, golden=tmp_path / "golden.npz", min_golden=1, before=tmp_path / "before.onnx"
    )
    with counted(tmp_path) as opened:
        verify_file(model, options)
    assert opened == dict.fromkeys([model.name, "before.onnx", known.name, "golden.npz"], 1)
