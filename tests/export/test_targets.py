"""Formats and targets by the names that users write."""

import ast
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export import targets
from qmu_edge.export.targets import FINN, ONNXRUNTIME, TARGETS, Format, target_named


def test_formats_have_their_names_and_files() -> None:
    assert {f"{form}": form.file_name for form in Format} == {
        "integer": "model.onnx",
        "packed": "model.packed.onnx",
        "qcdq": "model.qcdq.onnx",
        "qonnx": "model.qonnx.onnx",
    }
    for form in Format:
        assert Format.parse(form.value) is form
    with pytest.raises(ConfigError, match="format 'tflite' is not one of integer, packed, qcdq, qonnx"):
        Format.parse("tflite")


def test_targets_are_found_by_name() -> None:
    assert [*TARGETS] == ["onnxruntime", "openvino", "tensorrt", "finn", "hls4ml"]
    for name, target in TARGETS.items():
        assert target_named(name) is target and target.name == name
    with pytest.raises(ConfigError, match="target 'toaster' is not one of onnxruntime, openvino"):
        target_named("toaster")


def test_a_target_takes_its_own_formats_only() -> None:
    for target in TARGETS.values():
        target.require(target.formats)
    ONNXRUNTIME.require(tuple(Format))
    with pytest.raises(ConfigError, match="target finn does not take format 'packed'; allowed: qonnx"):
        FINN.require((Format.QONNX, Format.PACKED))


def test_networks_of_tokens_are_refused_by_those_that_have_no_attention() -> None:
    for target in TARGETS.values():
        target.require_known({"Conv", "Gemm", "ReduceMean"})
    ONNXRUNTIME.require_known({"MatMul", "Softmax"})
    with pytest.raises(ExportError, match=r"no layer-norm \(here MatMul, Sqrt\); .*: onnxruntime, openvino"):
        FINN.require_known({"Sqrt", "Conv", "MatMul"})


def test_the_names_stand_in_one_module() -> None:
    names = {*Format, *TARGETS}
    for path in sorted(Path(str(targets.__file__)).parent.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & names
        assert not found or path.name == "targets.py", (path.name, found)
