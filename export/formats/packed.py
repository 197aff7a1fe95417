"""Packed: the integer file with weights of 4 or 2 bits on disk, for flash and for updates over the air.

    weights    INT4 or INT2, widened by a Cast in front of everything else: a runtime does that once at load
               and then runs the same integer kernels
    scales     float16 where that loses nothing (the deploy form's gains have short mantissas)
    biases     int16 where they fit; of float layers, float16 where that loses nothing
    names      short ones: a small network has more bytes of names than of biases
    attributes of a convolution that say what is so anyway are left out

Everything is widened exactly, so the file computes what the integer file does.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from qmu_edge.export.graph import initializers, read_from, set_initializer, set_nodes

# ONNX has INT4 from opset 21 on, INT2 from 25 on; IR versions to match.
NARROW: Final[Mapping[int, tuple[Any, int, int]]] = {
    2: (ml_dtypes.int2, 25, 13),
    3: (ml_dtypes.int4, 21, 10),
    4: (ml_dtypes.int4, 21, 10),
}


def pack(integer: onnx.ModelProto, bits: Mapping[str, int], floats: Collection[str] = ()) -> onnx.ModelProto:
    """A smaller file that computes the same.

    Args:
        integer: From `to_integer`; left as it is.
        bits: Width of each stored weight.
        floats: Weights that the recipe leaves float.
    """
    model = onnx.ModelProto()
    model.CopyFrom(integer)
    widened: list[onnx.NodeProto] = []
    for name in bits:
        if bits[name] in NARROW:
            widened += _narrow_weight(model, name, bits[name])
    widened += _narrow_scales(model, floats)
    widened += _narrow_biases(model)
    set_nodes(model, [*widened, *model.graph.node])
    _drop_default_attributes(model)
    _shorten_names(model, keep={*bits, *floats})
    return model


def _widened(model: onnx.ModelProto, name: str, narrow: np.ndarray, to: int) -> onnx.NodeProto:
    """Store a tensor narrow; the Cast gives back what its readers read before."""
    set_initializer(model, name, narrow)
    read_from(model, name, f"{name}.wide")
    return helper.make_node("Cast", [name], [f"{name}.wide"], to=to)


def _narrow_weight(model: onnx.ModelProto, name: str, bits: int) -> list[onnx.NodeProto]:
    dtype, opset, ir_version = NARROW[bits]
    model.ir_version = max(model.ir_version, ir_version)
    for entry in model.opset_import:
        entry.version = max(entry.version, opset)
    codes = initializers(model)[name].astype(dtype)
    if any(node.op_type == "Cast" and node.input[0] == name for node in model.graph.node):
        set_initializer(model, name, codes)  # a float layer widens its codes already
        return []
    return [_widened(model, name, codes, TensorProto.INT8)]


def _narrow_scales(model: onnx.ModelProto, floats: Collection[str]) -> list[onnx.NodeProto]:
    """float16 for the scales of weights and the biases of float layers, where it is exact."""
    widened = []
    for name, values in initializers(model).items():
        narrow = values.astype(np.float16) if values.dtype == np.float32 else values
        if values.dtype != np.float32 or name in floats or values.size < 8 or (narrow != values).any():
            continue
        widened.append(_widened(model, name, narrow, TensorProto.FLOAT))
    return widened


def _narrow_biases(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """int16 for int32 biases that fit."""
    widened = []
    for name, values in initializers(model).items():
        if values.dtype != np.int32 or values.size < 8 or np.abs(values.astype(np.int64)).max() >= 2**15:
            continue
        widened.append(_widened(model, name, values.astype(np.int16), TensorProto.INT32))
    return widened


def _drop_default_attributes(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Conv":
            kept = [a for a in node.attribute if not _is_default(a)]
            del node.attribute[:]
            node.attribute.extend(kept)


def _is_default(attribute: onnx.AttributeProto) -> bool:
    """Whether a convolution without this attribute is the same; a kernel's shape is its weight's."""
    ints = list(attribute.ints)
    return {
        "auto_pad": attribute.s == b"NOTSET",
        "group": attribute.i == 1,
        "kernel_shape": True,
        "pads": not any(ints),
        "strides": set(ints) == {1},
        "dilations": set(ints) == {1},
    }.get(attribute.name, False)


def _shorten_names(model: onnx.ModelProto, keep: set[str]) -> None:
    """Name everything but inputs, outputs and weights by a number; nodes need no name."""
    keep = {"", *keep, *(v.name for v in (*model.graph.input, *model.graph.output))}
    short: dict[str, str] = {}

    def new(name: str) -> str:
        if name in keep:
            return name
        return short.setdefault(name, f"{len(short):x}")

    for node in model.graph.node:
        node.name = ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)
