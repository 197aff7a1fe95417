"""The input of an exported file: uint8 or float32 images, channels first or last.

The network's own normalisation is inside the graph in every case. Here the conversion of camera images to
float32 0..1 (n, c, h, w) is added before it.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from qmu_edge.errors import ConfigError
from qmu_edge.export.graph import INPUT, read_from, set_initializer, set_nodes
from qmu_edge.verify.metadata import Dtype, InputMetadata, Layout


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Element type and order of axes of a file's input."""

    dtype: Dtype = Dtype.FLOAT32
    layout: Layout = Layout.NCHW

    @classmethod
    def parse(cls, dtype: str, layout: str) -> "InputSpec":
        """Parse the user's options.

        Raises:
            ConfigError: An unknown element type or order of axes.
        """
        if dtype not in [*Dtype] or layout not in [*Layout]:
            raise ConfigError(f"input {dtype} {layout}; allowed {' or '.join(Dtype)}, {' or '.join(Layout)}")
        return cls(Dtype(dtype), Layout(layout))

    def metadata(self, channels: int) -> InputMetadata:
        """Metadata of the input, as stored in the file."""
        values = (0, 255) if self.dtype is Dtype.UINT8 else (0.0, 1.0)
        return InputMetadata(layout=self.layout, dtype=self.dtype, range=values, channels=channels)


def apply_input(graph: onnx.ModelProto, spec: InputSpec) -> None:
    """Change the input of the graph to this specification, in place.

    Args:
        graph: Graph with an input of float32 images 0..1 (n, c, h, w).
        spec: The new input.
    """
    (image,) = graph.graph.input
    made: list[onnx.NodeProto] = []
    name = INPUT
    if spec.dtype is Dtype.UINT8:
        image.type.tensor_type.elem_type = TensorProto.UINT8
        set_initializer(graph, "pixel_range", np.array(255, np.float32))
        made.append(helper.make_node("Cast", [name], ["pixels"], "input_cast", to=TensorProto.FLOAT))
        made.append(helper.make_node("Div", ["pixels", "pixel_range"], ["scaled"], "input_scale"))
        name = "scaled"
    if spec.layout is Layout.NHWC:
        _put_channels_last(image)
        made.append(
            helper.make_node("Transpose", [name], ["channels_first"], "input_turn", perm=[0, 3, 1, 2])
        )
        name = "channels_first"
    read_from(graph, INPUT, name)
    set_nodes(graph, [*made, *graph.graph.node])


def _put_channels_last(image: onnx.ValueInfoProto) -> None:
    """Reorder the declared axes (n, c, h, w) to (n, h, w, c), in place."""
    shape = image.type.tensor_type.shape
    n, c, h, w = (onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in shape.dim)
    for place, dim in zip(shape.dim, (n, h, w, c), strict=True):
        place.CopyFrom(dim)


def fix_batch(graph: onnx.ModelProto, batch: int) -> None:
    """Fix the batch size of input and output, in place."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
