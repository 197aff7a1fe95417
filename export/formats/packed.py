"""Packed: the integer file with weights of 4 or 2 bits on disk, for flash and for updates over the air.

    weights    INT4 or INT2, converted to int8 by a Cast: a runtime folds it at load and then runs the same
               integer kernels
    scales     float16 where that is exact (the deploy form's gains have short mantissas)
    biases     int16 where they fit; of float layers, float16 where that is exact
    names      short ones: in a small network names take more bytes than biases
    attributes of a convolution that repeat a default are left out

All conversions are exact, so the file computes the same as the integer file.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto, helper

from qmu_edge.export.graph import copied, initializers, read_from, set_initializer, set_nodes


class NarrowType(NamedTuple):
    """An element type below 8 bits, and the first opset and IR version of ONNX with it."""

    dtype: DTypeLike
    opset: int
    ir_version: int


INT4: Final = NarrowType(ml_dtypes.int4, opset=21, ir_version=10)
INT2: Final = NarrowType(ml_dtypes.int2, opset=25, ir_version=13)
NARROW: Final[Mapping[int, NarrowType]] = {2: INT2, 3: INT4, 4: INT4}
FEW: Final = 8  # elements; a tensor that is smaller saves less than its Cast costs


def pack(integer: onnx.ModelProto, bits: Mapping[str, int], floats: Collection[str] = ()) -> onnx.ModelProto:
    """A smaller file that computes the same.

    Args:
        integer: From `to_integer`; not changed.
        bits: Width of each stored weight, by name.
        floats: Names of the weights that the recipe leaves float.
    """
    model = copied(integer)
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
    """Store a tensor in a narrow type; returns the Cast that restores the type its readers expect."""
    set_initializer(model, name, narrow)
    read_from(model, name, f"{name}.wide")
    return helper.make_node("Cast", [name], [f"{name}.wide"], to=to)


def _narrow_weight(model: onnx.ModelProto, name: str, bits: int) -> list[onnx.NodeProto]:
    narrow = NARROW[bits]
    model.ir_version = max(model.ir_version, narrow.ir_version)
    for entry in model.opset_import:
        entry.version = max(entry.version, narrow.opset)
    codes = initializers(model)[name].astype(narrow.dtype)
    if any(node.op_type == "Cast" and node.input[0] == name for node in model.graph.node):
        set_initializer(model, name, codes)  # a float layer has a Cast of its codes already
        return []
    return [_widened(model, name, codes, TensorProto.INT8)]


def _narrow_scales(model: onnx.ModelProto, floats: Collection[str]) -> list[onnx.NodeProto]:
    """float16 for the scales of weights and the biases of float layers, where it is exact."""
    widened = []
    for name, values in initializers(model).items():
        if values.dtype != np.float32 or name in floats or values.size < FEW:
            continue
        narrow = values.astype(np.float16)
        if (narrow != values).any():
            continue
        widened.append(_widened(model, name, narrow, TensorProto.FLOAT))
    return widened


def _narrow_biases(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """int16 for int32 biases that fit."""
    widened = []
    for name, values in initializers(model).items():
        if values.dtype != np.int32 or values.size < FEW or np.abs(values.astype(np.int64)).max() >= 2**15:
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
    """Whether a convolution is the same without this attribute; the kernel's shape is that of the weight."""
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
