"""Which file of a release is measured, and what a policy allows."""

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline.evaluate import runnable, thresholds_of
from qmu_edge.project.records import Release
from qmu_edge.recipe import Recipe
from qmu_edge.verify.verdict import Thresholds

QONNX = Format.QONNX.file_name


def release(*names: str) -> Release:
    return Release(checkpoint=sha256_of(b""), files=dict.fromkeys(names, sha256_of(b"x")), sizes={})


def test_the_first_file_that_onnxruntime_runs_is_measured() -> None:
    assert runnable(release(QONNX, "model.onnx", "model.packed.onnx")) == "model.onnx"
    for names in ((), (QONNX,)):
        with pytest.raises(ConfigError, match="QONNX files alone"):
            runnable(release(*names))


def test_a_threshold_that_is_off_is_none() -> None:
    policy = Recipe().policy.model_copy(
        update={"max_residual": 0.5, "max_ra_drop": "off", "max_ta_drop": 0.0}
    )
    found = thresholds_of(policy)
    assert (found.max_residual, found.max_ra_drop, found.max_ta_drop) == (0.5, None, 0.0)
    assert isinstance(found, Thresholds)
