"""A QONNX graph while it is written, node by node."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import helper
from torch import Tensor, fx

from qmu_edge.errors import ExportError
from qmu_edge.export.graph import LARGEST, ON_CODES, constant, integer_codes
from qmu_edge.models.kinds import shift_of
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN

EXAMPLES: Final = 2  # images for which shapes are worked out
BrevitasLayer: TypeAlias = Any  # Brevitas has no types
BrevitasProxy: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]


class Writer:
    """Appends nodes.

    Attributes:
        graph: What is written.
        found: What each call gives for `EXAMPLES` images.
    """

    def __init__(self, graph: onnx.ModelProto, found: Mapping[fx.Node, Any]) -> None:
        """Begin with a graph that has input and output."""
        self.graph, self.found = graph, found
        self._on_grid: set[str] = set()

    def shape(self, call: fx.Node) -> Shape:
        """Of the tensor that a call gives, for `EXAMPLES` images."""
        return tuple(self.found[call].shape)

    def reshape(self, name: str, x: str, before: Shape, behind: Shape) -> str:
        """Append a Reshape, which leaves the number of images open."""
        first = 0 if before[0] == behind[0] == EXAMPLES else -1
        sizes = np.array([first, *behind[1:]])
        return self.node("Reshape", name, [x, self.constant(f"shape_{'_'.join(map(str, sizes))}", sizes)])

    def transpose(self, name: str, x: str, order: list[int]) -> str:
        """Append a Transpose."""
        return self.node("Transpose", name, [x], perm=order)

    def node(self, op_type: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; its output has the same name."""
        self.graph.graph.node.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        if op_type == "Quant" or (op_type in ON_CODES and inputs[0] in self._on_grid):
            self._on_grid.add(name)
        return name

    def constant(self, name: str, value: Tensor | np.ndarray | float) -> str:
        """Name of an initializer with this value; floating-point values are stored as float32."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        return constant(self.graph, name, array.astype(np.float32) if array.dtype.kind == "f" else array)

    def number(self, value: float) -> str:
        """Name of an initializer with a number, which all that need the same one share."""
        return self.constant(f"number_{float(value)!r}", float(value))

    def quant(self, name: str, x: str, proxy: BrevitasProxy, scale: np.ndarray) -> str:
        """Append a `Quant` node; QONNX keeps scale, zero point and bit width as tensors."""
        if proxy.rounding_mode != "ROUND" or float(proxy.zero_point().abs().max()):
            raise ExportError(f"{name}: only rounding to the nearest even code with zero point 0 is exported")
        bits, shift = int(proxy.bit_width()), shift_of(proxy)
        zero = -shift if shift else 0
        parameters = [
            self.constant(f"{name}.scale", scale),
            self.constant(f"zero_point_{zero}" if zero else "zero_point", float(zero)),
            self.constant(f"bits_{bits}", float(bits)),
        ]
        flags = {"signed": int(proxy.is_signed), "narrow": int(proxy.is_narrow_range)}
        if shift is not None:
            flags = {"signed": 0, "narrow": 0}
        return self.node("Quant", name, [x, *parameters], domain=QONNX_DOMAIN, rounding_mode="ROUND", **flags)

    def activation(self, name: str, x: str, layer: BrevitasLayer) -> str:
        """Append the activation quantizer of a layer, where it has one."""
        if not layer.act_quant.is_quant_enabled:
            return x
        return self.quant(f"{name}.quant", x, layer.act_quant, layer.act_quant.scale().detach().numpy())

    def weight(self, name: str, layer: BrevitasLayer) -> str:
        """Store the weight of a layer as code x scale and append its quantizer; a float weight as it is."""
        value, proxy = layer.weight.detach().numpy(), layer.weight_quant
        if not proxy.is_quant_enabled:
            return self.constant(f"{name}.weight", value)
        scale = proxy.scale().detach().numpy()
        bits, signed = int(proxy.bit_width()), proxy.is_signed
        low, high = code_range(bits, signed=signed, narrow=proxy.is_narrow_range)
        codes = integer_codes(value, scale, low, high)
        stored = self.constant(f"{name}.weight", codes.astype(np.float32) * scale)
        return self.quant(f"{name}.weight.quant", stored, proxy, scale)

    def layer_inputs(self, name: str, x: str, layer: BrevitasLayer) -> list[str]:
        """Names of the input, the weight, and the bias where the layer has one.

        Newer onnxruntimes quantize a float weight to 8 bits where DequantizeLinear gives what the layer
        reads. A Clip that clips nothing keeps the two apart.
        """
        bias = [] if layer.bias is None else [self.constant(f"{name}.bias", layer.bias)]
        if x in self._on_grid and not layer.weight_quant.is_quant_enabled:
            x = self.node("Clip", f"{name}.read", [x, self.number(-LARGEST), self.number(LARGEST)])
        return [x, self.weight(name, layer), *bias]
