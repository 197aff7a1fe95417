"""The runner against onnxruntime used plainly, and against files that it must refuse."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ConfigError, ExportError, IntegrityError, QmuEdgeError
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.session import OrtRunner, lacking, oldest_onnxruntime


def _images(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 3, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize("optimization", ["disabled", "basic", "all"])
def test_equals_onnxruntime(make: Any, save: Any, optimization: str) -> None:
    path, images = save(make.qcdq()), _images(23)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": images.astype(np.float32) / 255})
    runner = OrtRunner(path, optimization=optimization)
    assert runner.input_shape == (None, 3, 8, 8)
    found = runner.logits(images, batch=7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_fixed_batch_is_filled_up(make: Any, save: Any) -> None:
    images = _images(10)
    expected = OrtRunner(save(make.qcdq())).logits(images)
    runner = OrtRunner(save(make.qcdq(batch=4)), threads=2)
    assert runner.input_shape == (4, 3, 8, 8)
    np.testing.assert_allclose(runner.logits(images), expected, atol=1e-5)


def test_images_that_do_not_fit(make: Any, save: Any) -> None:
    runner, images = OrtRunner(save(make.qcdq())), _images(2)
    for bad in (images.astype(np.float32), images[0], images[:, :2], images[:0]):
        with pytest.raises(ConfigError):
            runner.logits(bad)
    with pytest.raises(ConfigError):
        runner.logits(images, batch=0)
    with pytest.raises(ConfigError):
        OrtRunner(runner.path, threads=0)
    with pytest.raises(ConfigError):
        OrtRunner(runner.path, optimization="extended")


def test_qonnx_is_explained(make: Any, save: Any) -> None:
    with pytest.raises(ExportError, match="QONNX file, which onnxruntime cannot run"):
        OrtRunner(save(make.qonnx()))


def test_other_signatures(make: Any, save: Any) -> None:
    two = make.qcdq()
    two.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    wide = make.qcdq(batch=2**40)
    open_size = make.qcdq()
    open_size.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    for model in (two, wide, open_size):
        with pytest.raises((ExportError, IntegrityError)):
            OrtRunner(save(model))


def test_what_onnxruntime_refuses(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.opset_import[0].version = 99
    with pytest.raises(IntegrityError, match=r"cannot load it \(opset 99, IR 10\)"):
        OrtRunner(save(model))
    model.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match="operator NoSuchOperator"):
        OrtRunner(save(model))
    with pytest.raises(IntegrityError, match="cannot be read"):
        OrtRunner(Path("absent.onnx"))


def test_logits_that_are_no_numbers(make: Any, save: Any) -> None:
    model = make.qcdq()
    make.replace(model, "bias", np.full(5, np.nan, np.float32))
    with pytest.raises(ExportError, match="not finite"):
        OrtRunner(save(model)).logits(_images(2))


def test_flipped_bytes_are_refused_or_give_logits_of_the_same_shape(make: Any, tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "flipped.onnx"
    honest = make.qcdq().SerializeToString()
    refused = 0
    for _ in range(100):
        data = bytearray(honest)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            logits = OrtRunner(path).logits(_images(2))
        except QmuEdgeError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
        else:
            assert logits.shape == (2, 5) and np.isfinite(logits).all()
    assert 0 < refused < 100


def test_any_input_is_fed_as_the_file_takes_it(make: Any, save: Any) -> None:
    images = _images(3)
    runner = OrtRunner(save(make.qcdq()))
    assert np.array_equal(runner.fed(images), images / np.float32(255))
    model = make.qcdq()
    helper.set_model_props(model, {"qmu_edge": '{"input": {"layout": "NHWC"}}'})
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[3].dim_value = 8, 3
    model.graph.node[2].input[0] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]))
    turned = OrtRunner(save(model))
    assert turned.input_shape == (None, 3, 8, 8)
    assert turned.fed(images).shape == (3, 8, 8, 3)
    assert np.array_equal(turned.logits(images), runner.logits(images))


def test_a_file_says_which_onnxruntime_it_needs(
    make: Any, save: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = save(make.qcdq())
    assert (oldest_onnxruntime(read(plain)), lacking(read(plain))) == ("1.18", "")
    model = make.qcdq()
    narrow = next(t for t in model.graph.initializer if t.name == "conv.w")
    codes = helper.make_tensor("conv.w", TensorProto.INT4, narrow.dims, numpy_helper.to_array(narrow).ravel())
    narrow.CopyFrom(codes)
    zeros = next(t for t in model.graph.initializer if t.name == "z1")
    zeros.CopyFrom(helper.make_tensor("z1", TensorProto.INT4, zeros.dims, [0] * 4))
    path = tmp_path / "narrow.onnx"
    path.write_bytes(model.SerializeToString())
    assert oldest_onnxruntime(read(path)) == "1.23" and OrtRunner(path).input_shape == (None, 3, 8, 8)
    monkeypatch.setattr(ort, "__version__", "1.22.1")
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(
        IntegrityError, match=r"narrow\.onnx: needs onnxruntime 1\.23 or newer, this is 1\.22\.1"
    ):
        OrtRunner(path)
