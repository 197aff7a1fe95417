"""What a file says about itself, and what the readers make of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from qmu_edge.errors import ExportError
from qmu_edge.verify.metadata import (
    METADATA_KEY,
    DeclaredWeights,
    Dtype,
    InputMetadata,
    Layout,
    Metadata,
    declared_weights,
    input_layout,
)
from qmu_edge.verify.onnx.graph import OnnxFile
from qmu_edge.verify.onnx.reader import read
from tests.verify import files

WHOLE = Metadata(
    tool="qmu-edge 0",
    architecture="resnet18",
    recipe="ab" * 32,
    weight_bits={"b": 4, "a": 8},
    float_weights=("c",),
    activation_bits="float",
    input=InputMetadata(layout=Layout.NHWC, dtype=Dtype.UINT8, range=(0, 255), channels=3),
    classes=("cat", "dog"),
)


def file_saying(folder: Path, text: str | None) -> OnnxFile:
    """A small model file with this property."""
    model = files.qcdq()
    del model.metadata_props[:]
    if text is not None:
        helper.set_model_props(model, {METADATA_KEY: text})
    return read(files.write(folder / "model.onnx", model))


def test_the_text_is_always_the_same(tmp_path: Path) -> None:
    assert WHOLE.to_text() == (
        '{"activation_bits":"float","architecture":"resnet18","classes":["cat","dog"],"float_weights":["c"],'
        '"input":{"channels":3,"dtype":"uint8","layout":"NHWC","range":[0,255]},'
        f'"recipe":"{"ab" * 32}","tool":"qmu-edge 0","weight_bits":{{"a":8,"b":4}}}}'
    )


def test_readers_find_their_share(tmp_path: Path) -> None:
    file = file_saying(tmp_path, WHOLE.to_text())
    assert declared_weights(file).weight_bits == {"a": 8, "b": 4}
    assert declared_weights(file).float_weights == ("c",)
    assert input_layout(file) is Layout.NHWC


@pytest.mark.parametrize("text", [None, "{}", '{"input": {}}'])
def test_files_that_say_nothing_have_defaults(tmp_path: Path, text: str | None) -> None:
    file = file_saying(tmp_path, text)
    assert declared_weights(file) == DeclaredWeights({}, ())
    assert input_layout(file) is Layout.NCHW


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "NaN", "3"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    file = file_saying(tmp_path, text)
    for reader in (declared_weights, input_layout):
        with pytest.raises(ExportError, match=r"model\.onnx: metadata 'qmu_edge': "):
            reader(file)


@pytest.mark.parametrize(
    "weights",
    [
        {"weight_bits": 3},
        {"weight_bits": {"w": 9}},
        {"weight_bits": {"w": True}},
        {"weight_bits": {"w": None}},
        {"float_weights": [1]},
        {"float_weights": [[]]},
        {"float_weights": None},
    ],
)
def test_weights_that_are_malformed_are_refused(tmp_path: Path, weights: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="metadata"):
        declared_weights(file_saying(tmp_path, json.dumps(weights)))


@pytest.mark.parametrize(
    "layout", ['{"layout": "HWC"}', '{"layout": null}', '{"layout": []}', "null", "3", "[]"]
)
def test_another_layout_is_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ExportError, match="allowed layouts NCHW, NHWC"):
        input_layout(file_saying(tmp_path, f'{{"input": {layout}}}'))
