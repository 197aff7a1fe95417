"""The verification of a file and of a bundle: what it finds, and what its JSON holds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.onnx.graph import Dialect
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Thresholds
from qmu_edge.verify.verification import Options, verify_bundle, verify_file, verify_structure
from tests.verify import bundles, files

ModelAndSets = tuple[Path, dict[SetName, Labelled]]
KEYS = (
    "file", "sha256", "bytes", "format", "opset_imports", "latent_weights", "parity", "evaluation",
    "verdict", "passed",
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
    assert tuple(verify_bundle(tmp_path / "bundle", Options()).to_json()) == (*KEYS, "bundle")


def test_a_file_is_judged_against_the_reference_that_is_asked_for(
    model_and_sets: ModelAndSets, tmp_path: Path
) -> None:
    model, sets = model_and_sets
    data = files.write_sets(tmp_path / "sets.npz", sets)
    retrained = verify_file(model, Options(data=data, retrained=model))
    assert retrained.passed and retrained.verdict and len(retrained.verdict.checks) == 4
    forgotten = verify_file(model, Options(data=data, forgotten_class=True))
    assert forgotten.verdict and [c.name for c in forgotten.verdict.checks] == ["fa_gap"]
    assert not forgotten.passed and forgotten.to_json()["passed"] is False
    before = verify_file(model, Options(data=data, before=model, thresholds=Thresholds(max_mia_auc_gap=None)))
    assert before.verdict and [c.name for c in before.verdict.checks] == ["fa_gap", "ta_drop", "ra_drop"]
    few = {name: sets[name] for name in (SetName.FORGET, SetName.RETAIN)}
    with pytest.raises(ConfigError, match="no test or validation set"):
        verify_file(model, Options(data=files.write_sets(tmp_path / "few.npz", few)))


def test_golden_logits_must_agree(model_and_sets: ModelAndSets, tmp_path: Path) -> None:
    model, sets = model_and_sets
    images = sets[SetName.TEST].images
    golden = tmp_path / "golden.npz"
    np.savez(golden, images=images, logits=OrtRunner(model).logits(images))
    found = verify_file(model, Options(golden=golden, min_golden=40))
    assert found.parity and (found.parity.n, found.parity.agreement) == (40, 1.0)
    with pytest.raises(ExportError, match="measured on 40 inputs, allowed at least 1000"):
        verify_file(model, Options(golden=golden))


def test_thresholds_of_a_bundle_take_the_place_of_others(
    model_and_sets: ModelAndSets, tmp_path: Path
) -> None:
    model, sets = model_and_sets
    bundles.write(tmp_path / "bundle", model)
    data = files.write_sets(tmp_path / "sets.npz", sets)
    strict = Thresholds(max_fa_gap=0.0, max_ta_drop=0.0, max_ra_drop=0.0, max_mia_auc_gap=0.0)
    options = Options(data=data, before=model, thresholds=strict)
    alone, bundled = verify_file(model, options), verify_bundle(tmp_path / "bundle", options)
    assert alone.verdict and len(alone.verdict.checks) == 4
    assert bundled.verdict and [c.allowed for c in bundled.verdict.checks] == [0.05, 0.02]
    assert (bundled.file, alone.file) == ("model.onnx", str(model))
    assert replace(bundled, file=alone.file, bundle=None).latent_weights == alone.latent_weights
