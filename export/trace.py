"""The network as a QONNX graph: standard operators, and `Quant` nodes where Brevitas quantizes.

Every format is converted from this graph. torch.fx traces the network's `forward`, and a writer for each kind
of layer appends its nodes. So the graph holds no information about machine or training: weights are stored as
code x scale, never as latent floats. A layer without a writer is refused, and the error names it.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import jaxtyping
import numpy as np
import onnx
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from qmu_edge.errors import ExportError
from qmu_edge.export.graph import INPUT, OUTPUT, constant, integer_codes
from qmu_edge.models import quant_layers
from qmu_edge.models.deploy import Affine, BreakTies
from qmu_edge.models.layers import Classifier, Normalize
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.onnx.graph import QONNX_DOMAIN

OPSET: Final = 18
QONNX_OPSET: Final = 2
IR_VERSION: Final = 10
BrevitasLayer: TypeAlias = Any  # Brevitas has no types
BrevitasProxy: TypeAlias = Any


def trace(model: Classifier, size: int) -> onnx.ModelProto:
    """Write `model` as a graph for square images of `size` pixels, with a dynamic batch.

    Args:
        model: In deploy form, in evaluation mode, on the CPU.
        size: Image side in pixels.

    Returns:
        QONNX graph from float32 images 0..1 (N, c, size, size) to float32 logits (N, k).

    Raises:
        ExportError: The network has a layer or a quantizer that no format can express; it is named.
    """
    graph = _empty(model, size)
    _Writer(graph, model).write(_followed(model))
    return graph


def _empty(model: Classifier, size: int) -> onnx.ModelProto:
    """A graph with input and output, and no nodes yet."""
    shapes = (("N", model.shape.channels, size, size), ("N", model.shape.classes))
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip((INPUT, OUTPUT), shapes, strict=True)
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX_DOMAIN, QONNX_OPSET)]
    return helper.make_model(
        helper.make_graph([], "classifier", [image], [logits]),
        opset_imports=opsets, ir_version=IR_VERSION, producer_name="qmu-edge",
    )  # fmt: skip


def _followed(model: Classifier) -> fx.Graph:
    """The calls that the network's `forward` makes, in order."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # fx traces with proxies, which have no shapes
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as error:  # the latter from functions that take no proxy
        raise ExportError(f"the network's forward cannot be followed: {error}") from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)


class _Tracer(fx.Tracer):
    """Tracer that does not enter layers with a writer, nor other layers of torch and Brevitas."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` becomes a single node."""
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


class _Writer:
    """Writes the nodes of one network, in order."""

    def __init__(self, graph: onnx.ModelProto, model: nn.Module) -> None:
        self.graph = graph
        self.model = model
        self.tensors: dict[fx.Node, str] = {}

    def write(self, traced: fx.Graph) -> None:
        """Write every call in order; the last tensor gets the output's name."""
        for node in traced.nodes:
            if node.op == "placeholder":
                self.tensors[node] = INPUT
            elif node.op == "output":
                self.graph.graph.node[-1].output[0] = OUTPUT
            else:
                self.tensors[node] = self._called(node)

    def _called(self, node: fx.Node) -> str:
        inputs = [self.tensors[n] for n in node.all_input_nodes]
        if node.op == "call_function" and node.target in FUNCTIONS:
            return FUNCTIONS[node.target](self, node.name, inputs, node.args)
        if node.op != "call_module":
            raise ExportError(f"{node.name}: the exporter has no {node.target}; see qmu_edge.export.trace")
        name = str(node.target)
        module = self.model.get_submodule(name)
        if type(module) not in MODULES:
            raise ExportError(
                f"{name}: a layer {type(module).__name__} cannot be exported; "
                f"allowed are {', '.join(sorted(m.__name__ for m in MODULES))}"
            )
        return MODULES[type(module)](self, name, inputs[0], module)

    def node(self, op_type: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; its output has the same name."""
        self.graph.graph.node.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: Tensor | np.ndarray | float) -> str:
        """Name of an initializer with this value; floating-point values are stored as float32."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        return constant(self.graph, name, array.astype(np.float32) if array.dtype.kind == "f" else array)

    def quant(self, name: str, x: str, proxy: BrevitasProxy, scale: np.ndarray) -> str:
        """Append a `Quant` node; QONNX keeps scale, zero point and bit width as tensors."""
        if proxy.rounding_mode != "ROUND" or float(proxy.zero_point().abs().max()):
            raise ExportError(f"{name}: only rounding to the nearest even code with zero point 0 is exported")
        bits = int(proxy.bit_width())
        parameters = [
            self.constant(f"{name}.scale", scale),
            self.constant("zero_point", 0.0),
            self.constant(f"bits_{bits}", float(bits)),
        ]
        flags = {"signed": int(proxy.is_signed), "narrow": int(proxy.is_narrow_range)}
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
        """Names of the input, the weight, and the bias where the layer has one."""
        bias = [] if layer.bias is None else [self.constant(f"{name}.bias", layer.bias)]
        return [x, self.weight(name, layer), *bias]


def _conv(w: _Writer, name: str, x: str, m: BrevitasLayer) -> str:
    return w.node(
        "Conv", f"{name}.sum", w.layer_inputs(name, x, m), kernel_shape=m.kernel_size, strides=m.stride,
        pads=[*m.padding, *m.padding], dilations=m.dilation, group=m.groups,
    )  # fmt: skip


def _linear(w: _Writer, name: str, x: str, m: BrevitasLayer) -> str:
    return w.node("Gemm", f"{name}.sum", w.layer_inputs(name, x, m), transB=1)


def _affine(w: _Writer, name: str, x: str, m: Affine) -> str:
    shifted = w.node("Add", f"{name}.shifted", [x, w.constant(f"{name}.bias", m.bias)])
    return w.node("Mul", f"{name}.scaled", [shifted, w.constant(f"{name}.gain", m.gain)])


def _break_ties(w: _Writer, name: str, x: str, m: BreakTies) -> str:
    return w.node("Mul", f"{name}.below", [x, w.constant("below_one", m.factor)])


def _normalize(w: _Writer, name: str, x: str, m: Normalize) -> str:
    centred = w.node("Sub", f"{name}.centred", [x, w.constant(f"{name}.mean", m.mean)])
    return w.node("Mul", f"{name}.scaled", [centred, w.constant(f"{name}.inverse_std", m.inverse_std)])


def _relu(w: _Writer, name: str, x: str, m: nn.Module) -> str:
    return w.node("Relu", f"{name}.relu", [x])


def _quant_relu(w: _Writer, name: str, x: str, m: BrevitasLayer) -> str:
    return w.activation(name, _relu(w, name, x, m), m)


def _clip(w: _Writer, name: str, x: str, m: nn.Hardtanh) -> str:
    bounds = [w.constant(f"bound_{v:g}", float(v)) for v in (m.min_val, m.max_val)]
    return w.node("Clip", f"{name}.clip", [x, *bounds])


def _max_pool(w: _Writer, name: str, x: str, m: nn.MaxPool2d) -> str:
    kernel, stride, padding = (_pair(v) for v in (m.kernel_size, m.stride, m.padding))
    return w.node(
        "MaxPool", f"{name}.max", [x], kernel_shape=kernel, strides=stride, pads=[*padding, *padding]
    )


def _pair(size: int | tuple[int, int]) -> list[int]:
    """Height and width; a single number stands for both."""
    return [size, size] if isinstance(size, int) else [*size]


def _flatten(w: _Writer, name: str, x: str, m: nn.Flatten) -> str:
    return w.node("Reshape", f"{name}.flat", [x, w.constant("flat", np.array([0, -1]))])


def _mean_over_space(w: _Writer, name: str, inputs: list[str], args: tuple[object, ...]) -> str:
    if args[1] != 1:
        raise ExportError(f"{name}: pooling to {args[1]} pixels cannot be exported, only to 1")
    return w.node("ReduceMean", name, [inputs[0], w.constant("space", np.array([-1, -2]))])


def _add(w: _Writer, name: str, inputs: list[str], args: tuple[object, ...]) -> str:
    return w.node("Add", name, inputs)


MODULES: Final[Mapping[type, Callable[[_Writer, str, str, Any], str]]] = {
    quant_layers.QuantConv2d: _conv,
    quant_layers.QuantLinear: _linear,
    quant_layers.QuantReLU: _quant_relu,
    quant_layers.QuantIdentity: lambda w, name, x, m: w.activation(name, x, m),
    Affine: _affine,
    BreakTies: _break_ties,
    Normalize: _normalize,
    nn.ReLU: _relu,
    nn.Hardtanh: _clip,
    nn.MaxPool2d: _max_pool,
    nn.Flatten: _flatten,
    nn.Identity: lambda w, name, x, m: x,
    nn.Dropout: lambda w, name, x, m: x,
}
FUNCTIONS: Final[Mapping[object, Callable[[_Writer, str, list[str], tuple[object, ...]], str]]] = {
    operator.add: _add,
    F.adaptive_avg_pool2d: _mean_over_space,
}
