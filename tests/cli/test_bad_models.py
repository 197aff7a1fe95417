"""Files given to `verify` that are no model of ours."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.cli.refusals import refused


def _external(path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def _foreign(path: Path, model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)


def _latent(path: Path, model: onnx.ModelProto) -> None:
    """A float tensor in place of integer codes."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            codes = numpy_helper.to_array(tensor).astype(np.float32)
            noise = np.random.default_rng(0).normal(0, 0.1, codes.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(codes + noise, tensor.name))
            break
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] == tensor.name:
            node.op_type = "Mul"
            del node.input[2:], node.attribute[:]
            break
    onnx.save(model, path)


FILES: dict[str, tuple[Callable[[Path, bytes], object], int]] = {
    "missing": (lambda p, data: None, 4),
    "empty": (lambda p, data: p.write_bytes(b""), 4),
    "a folder": (lambda p, data: p.mkdir(), 4),
    "a pipe": (lambda p, data: os.mkfifo(p), 4),
    "text": (lambda p, data: p.write_text("not a model"), 6),  # reads as unknown fields
    "a PNG": (lambda p, data: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), 6),
    "truncated": (lambda p, data: p.write_bytes(data[: len(data) // 2]), 4),
    "external data": (lambda p, data: _external(p, onnx.load_from_string(data)), 6),
    "a foreign domain": (lambda p, data: _foreign(p, onnx.load_from_string(data)), 6),
    "latent weights": (lambda p, data: _latent(p, onnx.load_from_string(data)), 6),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("inside", [True, False], ids=["in a project", "outside"])
def test_verify_refuses_what_is_no_model_of_ours(
    made: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
) -> None:
    make, code = FILES[name]
    model = tmp_path / "model.onnx"
    make(model, (made.served / "release/model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    more = ["--project", made.served] if inside else []
    refused(run("verify", model, "--quiet", *more), code, str(model))


def test_verify_of_a_release_that_is_not_there_says_what_writes_one(made: Any, run: Any) -> None:
    ended = run("verify", made.trained / "release/model.onnx", "--project", made.trained, "--quiet")
    refused(ended, 4, "no such file: qmu-edge unlearn writes release/model.onnx, export --out any other")
