"""The proof that a file computes the same everywhere, against kernels written out and planted faults."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify import verification
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.render import same_bits
from qmu_edge.verify.session import PRODUCT, clips_pairs
from qmu_edge.verify.verification import Options, verify_file
from tests.verify import files

BELOW = np.float32(1 - 2**-12)


def network() -> dict[str, Any]:
    """Tensors of a network of one residual block, with nothing in its way."""
    rng = np.random.default_rng(0)
    return {
        "step": np.float32(0.125), "below": np.float32(0.125) * BELOW, "out": np.float32(0.25),
        "out.below": np.float32(0.25) * BELOW, "mean": np.float32(0.0625), "zero": np.uint8(0),
        "w": rng.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8), "w.scale": np.full(4, 2**-7, np.float32),
        "bias": rng.integers(-99, 99, 4).astype(np.int32), "bias.scale": np.full(4, 2**-10, np.float32),
        "v": rng.integers(-63, 64, (5, 4)).astype(np.int8), "v.scale": np.full(5, 2**-7, np.float32),
        "v.zero": np.zeros(5, np.int8),
        "flat": np.array([0, -1]),
    }  # fmt: skip


def written(path: Path, tensors: dict[str, Any], **inputs: list[str]) -> Path:
    """The network as a file; `inputs` are others of a node."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "step", "zero"], ["q"], "q"),
        node("DequantizeLinear", ["q", "step", "zero"], ["x"], "x"),
        node("DequantizeLinear", ["w", "w.scale"], ["kernel"], "kernel", axis=0),
        node("DequantizeLinear", ["bias", "bias.scale"], ["offset"], "offset", axis=0),
        node("Conv", ["x", "kernel", "offset"], ["c"], "c", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("QuantizeLinear", ["c", "step", "zero"], ["d"], "d"),
        node("DequantizeLinear", ["d", "below", "zero"], ["e"], "e"),
        node("Add", ["e", "e"], ["f"], "f"),
        node("QuantizeLinear", ["f", "out", "zero"], ["g"], "g"),
        node("DequantizeLinear", ["g", "out.below", "zero"], ["h"], "h"),
        node("GlobalAveragePool", ["h"], ["i"], "i"),
        node("QuantizeLinear", ["i", "mean", "zero"], ["j"], "j"),
        node("Reshape", ["j", "flat"], ["k"], "k"),
        node("DequantizeLinear", ["k", "mean", "zero"], ["l"], "l"),
        node("DequantizeLinear", ["v", "v.scale", "v.zero"], ["head"], "head", axis=0),
        node("Gemm", ["l", "head"], ["logits"], "logits", transB=1),
    ]
    for each in nodes:
        each.input[:] = inputs.get(each.name, each.input)
    read_by = {name for each in nodes for name in each.input}
    nodes = [each for each in nodes if each.output[0] in read_by | {"logits"}]
    read_by = {name for each in nodes for name in each.input}
    tensors = {name: value for name, value in tensors.items() if name in read_by}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return files.write(path, model)


def test_a_network_without_obstacles_is_proven(tmp_path: Path) -> None:
    found = obstacles(read(written(tmp_path / "model.onnx", network())))
    assert found == () and same_bits(found) == "on every processor: proven"


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a pair of products": ({"w": np.full((4, 3, 3, 3), 127, np.int8)}, "kernel", "clip their sum"),
    "a pair of negative ones": ({"w": np.full((4, 3, 3, 3), -127, np.int8)}, "kernel", "clip their sum"),
    "a bias": ({"bias": np.full(4, 2**31 - 1, np.int32)}, "kernel", "does not fit 32 bits"),
    "a tie at an addition": ({"below": np.float32(0.125)}, "g", "0.0e+00 steps from a half"),
    "a tie at a mean": ({"out.below": np.float32(0.25)}, "j", "0.0e+00 steps from a half"),
    "a free step of a layer": (
        {"step": np.float32(0.1), "below": np.float32(0.1), "bias.scale": np.full(4, 0.1 / 128, np.float32)},
        "d",
        "no power of two",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_differs_between_processors_is_named(tmp_path: Path, fault: str) -> None:
    changes, tensor, why = FAULTS[fault]
    found = obstacles(read(written(tmp_path / "model.onnx", network() | changes)))
    assert [o for o in found if o.tensor == tensor and why in o.why], found
    assert any(o.clips for o in found) == (fault in list(FAULTS)[:2])
    assert same_bits(found).startswith("not proven for every processor: ")


Edit = Callable[[onnx.ModelProto], None]


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = [node for node in model.graph.node if node.name == name]
    assert isinstance(found, onnx.NodeProto)
    return found


def _before(model: onnx.ModelProto, name: str, op_type: str, inputs: list[str], **attributes: Any) -> None:
    """Put a node before the first input of another."""
    at = next(i for i, node in enumerate(model.graph.node) if node.name == name)
    target = model.graph.node[at]
    made = helper.make_node(
        op_type, [target.input[0], *inputs], [f"{name}.in"], f"{name}.before", **attributes
    )
    target.input[0] = f"{name}.in"
    model.graph.node.insert(at, made)


def _constant(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _set(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _gemm_of_rows(model: onnx.ModelProto) -> None:
    del _node(model, "logits").attribute[:]
    _set(model, "v", np.ascontiguousarray(network()["v"].T))
    _set(model, "v.scale", np.array(2**-7, np.float32))


def _two_readers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["c"], ["again"], "again"))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, None))


EDITS: dict[str, tuple[Edit, str]] = {
    "a Gemm of rows": (_gemm_of_rows, "transposed weight"),
    "a weight in another order": (
        lambda m: _before(m, "head", "Transpose", [], perm=[0, 1]), "in another order"
    ),
    "a Clip of nothing": (
        lambda m: _before(m, "e", "Clip", [
            _constant(m, "low", np.array(200, np.uint8)), _constant(m, "high", np.array(0, np.uint8)),
        ]),
        "a Clip of no codes",
    ),
    "a Clip with one bound": (
        lambda m: _before(m, "e", "Clip", [_constant(m, "low", np.array(1, np.uint8))]),
        "not as the exporter writes it",
    ),
    "a bias on another grid": (
        lambda m: _set(m, "bias.scale", np.full(4, 2**-9, np.float32)), "a bias that is not on the grid"
    ),
    "scales along another axis": (
        lambda m: _node(m, "head").attribute.pop(), "scales that are not one for each output"
    ),
    "a factor before a grid": (
        lambda m: _before(m, "d", "Mul", [_constant(m, "two", np.array(2, np.float32))]),
        "floats between layers",
    ),
    "a rectifier of values": (lambda m: _before(m, "c", "Relu", []), "floats between layers"),
    "two readers of a sum": (_two_readers, "a sum that two nodes read"),
    "a grid without a zero point": (lambda m: _node(m, "q").input.pop(), "not as the exporter writes it"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_of_what_the_exporter_does_not_write_nothing_is_proven(tmp_path: Path, edit: str) -> None:
    change, why = EDITS[edit]
    model = onnx.load(written(tmp_path / "model.onnx", network()))
    change(model)
    found = obstacles(read(files.write(tmp_path / "edited.onnx", model)))
    assert found and re.search(why, found[-1].why), found


def test_a_rectifier_needs_a_grid_from_zero(tmp_path: Path) -> None:
    tensors = network() | {"middle": np.uint8(128)}
    path = written(tmp_path / "a.onnx", tensors, d=["c", "step", "middle"], e=["d", "below", "middle"])
    model = onnx.load(path)
    _before(model, "d", "Relu", [])
    found = obstacles(read(files.write(tmp_path / "b.onnx", model)))
    assert "a rectifier before a grid" in found[-1].why


def test_floats_between_layers_are_named(tmp_path: Path) -> None:
    float_bias = network() | {"bias.scale": np.zeros(4, np.float32)}
    path = written(tmp_path / "bias.onnx", float_bias, c=["x", "kernel", "bias.scale"])
    assert "floats between layers" in str(obstacles(read(path))[0])
    path = written(tmp_path / "input.onnx", network(), c=["image", "kernel", "offset"])
    assert "floats between layers" in str(obstacles(read(path))[0])
    found = obstacles(read(files.write(tmp_path / "qonnx.onnx", files.qonnx())))
    assert "Quant is no operator of an integer file" in str(found[0])


def test_the_probe_is_the_product_that_onnx_writes() -> None:
    shaped = [(n, t, [None, None]) for n, t in (("a", TensorProto.UINT8), ("b", TensorProto.INT8))]
    a, b = (helper.make_tensor_value_info(*each) for each in shaped)
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [None, None])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "p", [a, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    assert model == onnx.load_from_string(PRODUCT)


def test_a_file_is_refused_where_its_sums_are_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Path
) -> None:
    large = network() | {"w": np.full((4, 3, 3, 3), 127, np.int8)}
    clipped, fine = written(tmp_path / "a.onnx", large), written(tmp_path / "b.onnx", network())
    monkeypatch.setattr(verification, "clips_pairs", lambda: True)
    with pytest.raises(ExportError, match=r"a\.onnx: kernel: two products .* this processor is one of them"):
        verify_file(clipped, Options(data=known))
    with pytest.raises(ExportError, match="this processor is one of them"):
        verify_file(clipped, Options())
    assert verify_file(fine, Options(data=known)).evaluation
    monkeypatch.setattr(verification, "clips_pairs", lambda: False)
    assert verify_file(clipped, Options(data=known)).evaluation


def test_this_processor_is_asked_and_not_its_name() -> None:
    flags = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
    if "avx2" not in flags or os.environ.get("MLAS_CPU"):
        pytest.skip("no x86 processor whose flags are known")
    assert clips_pairs() == ("vnni" not in flags)


def test_onnxruntime_is_told_to_be_silent_before_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import qmu_edge.verify.session, onnxruntime, os; "
        "onnxruntime.InferenceSession(qmu_edge.verify.session.PRODUCT); "
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    quiet = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_ACTIONS", "TF_BUILD")}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "ORT_DISABLE_TELEMETRY": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=quiet | home, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "1" and not list(tmp_path.rglob("*"))
