"""What a camera gives: uint8 or float 0..1, channels first or last. The file takes it as it comes.

The network's own normalisation is inside the graph in every case; here the step before it is added.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from qmu_edge.errors import ConfigError
from qmu_edge.export.graph import read_from, set_initializer, set_nodes
from qmu_edge.export.trace import INPUT


@dataclass(frozen=True, slots=True)
class Camera:
    """Element type and order of axes of the file's input."""

    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @classmethod
    def of(cls, dtype: str, layout: str) -> "Camera":
        """A camera from what a user wrote.

        Raises:
            ConfigError: Another element type or order.
        """
        if dtype not in ("float32", "uint8") or layout not in ("NCHW", "NHWC"):
            raise ConfigError(f"input {dtype} {layout}; allowed float32 or uint8, NCHW or NHWC")
        return cls(dtype, layout)  # type: ignore[arg-type]


def put_camera(graph: onnx.ModelProto, camera: Camera) -> None:
    """Make the graph take what the camera gives, in place."""
    (image,) = graph.graph.input
    shape = image.type.tensor_type.shape
    made: list[onnx.NodeProto] = []
    name = INPUT
    if camera.dtype == "uint8":
        image.type.tensor_type.elem_type = TensorProto.UINT8
        set_initializer(graph, "pixel_range", np.array(255, np.float32))
        made.append(helper.make_node("Cast", [name], ["pixels"], "input_cast", to=TensorProto.FLOAT))
        made.append(helper.make_node("Div", ["pixels", "pixel_range"], ["scaled"], "input_scale"))
        name = "scaled"
    if camera.layout == "NHWC":
        dims = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in shape.dim]
        for place, dim in zip(shape.dim, (dims[0], dims[2], dims[3], dims[1]), strict=True):
            place.CopyFrom(dim)
        made.append(
            helper.make_node("Transpose", [name], ["channels_first"], "input_turn", perm=[0, 3, 1, 2])
        )
        name = "channels_first"
    read_from(graph, INPUT, name)
    set_nodes(graph, [*made, *graph.graph.node])


def fix_batch(graph: onnx.ModelProto, batch: int) -> None:
    """Make the batch a fixed number, in place."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
