"""Small model files made by hand, as QCDQ and as QONNX, and edits of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.metadata import METADATA_KEY
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN


def _codes(*shape: int) -> NDArray[np.int8]:
    return np.random.default_rng(0).integers(-7, 8, shape).astype(np.int8)


def _model(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, NDArray[Any]],
    metadata: dict[str, Any] | None,
    batch: int | str,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("Conv", ["x", "w1"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w2", "bias"], ["y"], name="fc", transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(QONNX_DOMAIN, 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    return model


def qcdq(batch: int | str = "n") -> onnx.ModelProto:
    """Make a 4-bit QCDQ net: per-channel Conv, per-tensor Gemm, float bias."""
    nodes = [
        helper.make_node("DequantizeLinear", ["conv.w", "s1", "z1"], ["w1"], axis=0),
        helper.make_node("DequantizeLinear", ["fc.w", "s2"], ["w2"]),
    ]
    tensors: dict[str, NDArray[Any]] = {
        "conv.w": _codes(4, 3, 3, 3),
        "s1": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "z1": np.zeros(4, np.int8),
        "fc.w": _codes(5, 4),
        "s2": np.array(0.05, np.float32),
        "bias": np.array([0.1, 0.0, -0.1, 0.2, 0.3], np.float32),
    }
    return _model(nodes, tensors, {"weight_bits": {"conv.w": 4, "fc.w": 4}}, batch)


def qonnx(bits: int = 4) -> onnx.ModelProto:
    """Make the same net as QONNX, with code-times-scale weights."""
    quant: dict[str, Any] = {"domain": QONNX_DOMAIN, "signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    nodes = [
        helper.make_node("Quant", ["conv.w", "s1", "zero", "bits"], ["w1"], **quant),
        helper.make_node("Quant", ["fc.w", "s2", "zero", "bits"], ["w2"], **quant),
    ]
    top = 2 ** (bits - 1) - 1
    s1 = np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1, 1)
    s2 = np.array(0.05, np.float32)
    tensors: dict[str, NDArray[Any]] = {
        "conv.w": _codes(4, 3, 3, 3).clip(-top, top) * s1,
        "s1": s1,
        "fc.w": _codes(5, 4).clip(-top, top) * s2,
        "s2": s2,
        "zero": np.array(0, np.float32),
        "bits": np.array(bits, np.float32),
        "bias": np.array([0.1, 0.0, -0.1, 0.2, 0.3], np.float32),
    }
    return _model(nodes, tensors, None, "n")


def replace(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    """Give an initializer other values, in place."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def value_of(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """Copy the values of an initializer."""
    found = next(t for t in model.graph.initializer if t.name == name)
    return np.array(numpy_helper.to_array(found))


def write(path: Path, model: onnx.ModelProto) -> Path:
    """Write a model file."""
    path.write_bytes(model.SerializeToString())
    return path


def write_sets(path: Path, sets: Mapping[SetName, Labelled]) -> Path:
    """Write an `.npz` file as `--data` takes it."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, (images, labels) in sets.items():
        arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
