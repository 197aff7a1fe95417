"""A file without the output of a deleted class: the one with all outputs is judged, and must be the same."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.outputs import require_same_outputs
from qmu_edge.verify.render import table
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verification import Options, verify_file
from tests.verify import files

ModelAndSets = tuple[Path, dict[SetName, Labelled]]
KEPT = (0, 1, 3, 4)


@pytest.fixture
def narrowed(tmp_path: Path) -> Path:
    """The file of five outputs without the third."""
    return files.write(tmp_path / "narrowed.onnx", without_third())


def without_third() -> onnx.ModelProto:
    model = files.qcdq()
    for name in ("fc.w", "bias"):
        files.replace(model, name, files.value_of(model, name)[list(KEPT)])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(KEPT)
    return model


@pytest.fixture
def data(known: Path, tmp_path: Path) -> Path:
    """The sets, which say what outputs the file has."""
    with np.load(known) as arrays:
        np.savez(tmp_path / "narrowed.npz", **{**arrays, "outputs": np.array(KEPT)})
    return tmp_path / "narrowed.npz"


def test_the_file_with_all_outputs_is_judged(
    model_and_sets: ModelAndSets, known: Path, narrowed: Path, data: Path
) -> None:
    whole, _ = model_and_sets
    found = verify_file(narrowed, Options(data=data, before=whole, whole=whole))
    itself = verify_file(whole, Options(data=known, before=whole))
    assert found.verdict == itself.verdict and found.evaluation and itself.evaluation
    assert found.evaluation.fa == itself.evaluation.fa
    assert (found.sha256, found.whole) == (read(narrowed).sha256, read(whole).sha256)
    assert json.loads(json.dumps(found.to_json()))["whole"] == found.whole
    assert f"measured        {found.whole}, the file with all outputs" in table(found)
    assert "whole" not in itself.to_json() and "measured" not in table(itself)


def test_whoever_lacks_the_file_with_all_outputs_is_told(
    model_and_sets: ModelAndSets, known: Path, narrowed: Path, data: Path
) -> None:
    whole, _ = model_and_sets
    with pytest.raises(ConfigError, match=r"outputs of deleted classes were taken out.*allowed is --whole"):
        verify_file(narrowed, Options(data=data, before=whole))
    with pytest.raises(ConfigError, match=r"--whole: .*known\.npz does not say which outputs"):
        verify_file(narrowed, Options(data=known, before=whole, whole=whole))


def test_another_number_or_file_or_order_is_refused(model_and_sets: ModelAndSets, narrowed: Path) -> None:
    """Of a file that is not proven to compute the same bits everywhere, only rounding is passed over."""
    whole, sets = model_and_sets
    images = {"test": sets[SetName.TEST].images}
    logits = {"test": OrtRunner(whole).logits(images["test"])}
    require_same_outputs(OrtRunner(narrowed), KEPT, images, logits)
    with pytest.raises(ExportError, match="4 outputs, allowed 3"):
        require_same_outputs(OrtRunner(narrowed), KEPT[1:], images, logits)
    with pytest.raises(ExportError, match="not that of the file with all outputs: on the test images"):
        require_same_outputs(OrtRunner(narrowed), (0, 1, 2, 3), images, logits)
    for wrong in ((0, 1, 3, 5), (4, 3, 1, 0), (0, 0, 1, 3), (-1, 0, 1, 3)):
        with pytest.raises(ConfigError, match="allowed ascending numbers below 5"):
            require_same_outputs(OrtRunner(narrowed), wrong, images, logits)
    nothing = {"test": logits["test"] * np.float32(np.nan)}
    with pytest.raises(ExportError, match="differ by up to nan"):
        require_same_outputs(OrtRunner(narrowed), KEPT, images, nothing)
    little = files.write(narrowed.with_name("little.onnx"), without_third())
    model = onnx.load(little)
    files.replace(model, "bias", files.value_of(model, "bias") + np.float32(0.05))
    files.write(little, model)
    with pytest.raises(ExportError, match=r"differ by up to 0\.05"):
        require_same_outputs(OrtRunner(little), KEPT, images, logits)
