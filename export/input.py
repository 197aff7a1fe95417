"""What an exported file takes: uint8 or float32 images, channels first or last.

The network's own normalisation is inside the graph in every case. What is added here stands before it: the
conversion of what a camera delivers to float32 0..1 (n, c, h, w).
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
class InputSpec:
    """Element type and order of axes of a file's input.

    Attributes:
        dtype: float32 means values 0..1, uint8 means 0..255.
        layout: NCHW means channels first, NHWC channels last.
    """

    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @classmethod
    def parse(cls, dtype: str, layout: str) -> "InputSpec":
        """Take what a user wrote.

        Raises:
            ConfigError: Another element type or order.
        """
        if dtype not in ("float32", "uint8") or layout not in ("NCHW", "NHWC"):
            raise ConfigError(f"input {dtype} {layout}; allowed float32 or uint8, NCHW or NHWC")
        return cls(dtype, layout)  # type: ignore[arg-type]


def apply_input(graph: onnx.ModelProto, spec: InputSpec) -> None:
    """Make the graph take images of this specification, in place.

    Args:
        graph: Takes float32 images 0..1 (n, c, h, w).
        spec: What it takes afterwards.
    """
    (image,) = graph.graph.input
    shape = image.type.tensor_type.shape
    made: list[onnx.NodeProto] = []
    name = INPUT
    if spec.dtype == "uint8":
        image.type.tensor_type.elem_type = TensorProto.UINT8
        set_initializer(graph, "pixel_range", np.array(255, np.float32))
        made.append(helper.make_node("Cast", [name], ["pixels"], "input_cast", to=TensorProto.FLOAT))
        made.append(helper.make_node("Div", ["pixels", "pixel_range"], ["scaled"], "input_scale"))
        name = "scaled"
    if spec.layout == "NHWC":
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
