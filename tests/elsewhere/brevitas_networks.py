"""Networks of Brevitas' own layers, as people train them with quantizers of many kinds."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int16Bias,
    Int32Bias,
)
from torch import Tensor, nn

from qmu_edge.models.layers import Layers, Shape

PER_CHANNEL: Final = {"weight_scaling_per_output_channel": True}


class Small(nn.Module):
    """A stem, a residual block, one layer behind it, and a classifier.

    Args of `__init__` are those of Brevitas' layers: of layers with weights, of activations.
    """

    def __init__(
        self, channels: int, classes: int, weights: Mapping[str, Any], activations: Mapping[str, Any],
        *, bits: int = 4, shared: bool = False, norms: bool = True, inside: bool = False,
    ) -> None:  # fmt: skip
        """Build it; `shared` quantizers, `norms` or biases, `inside`: grids are those of other layers."""
        super().__init__()
        given: dict[str, Any] = {"weight_bit_width": bits, "bias": not norms, **weights}
        conv = {"kernel_size": 3, "padding": 1, **given}
        grid: dict[str, Any] = {"bit_width": bits, "return_quant_tensor": not inside, **activations}
        signed: dict[str, Any] = {"bit_width": 8, "return_quant_tensor": shared}
        if "max_val" in grid:
            signed |= {**activations, "min_val": -4.0, "max_val": 4.0}
        self.image = nn.Identity()
        if not inside:
            self.image = qnn.QuantIdentity(**{**signed, "return_quant_tensor": True})
        first = {"input_quant": Int8ActPerTensorFloat} if inside else {}
        self.stem, self.stem_norm = qnn.QuantConv2d(channels, 8, **conv, **first), self._norm(8, norms)
        self.relu = qnn.QuantReLU(**grid)
        self.conv, self.norm = qnn.QuantConv2d(8, 8, **conv), self._norm(8, norms)
        self.branch, self.skip = qnn.QuantIdentity(**signed), qnn.QuantIdentity(**signed)
        if shared:
            conv["weight_quant"] = self.conv.weight_quant
            grid = {"act_quant": self.relu.act_quant, "return_quant_tensor": True}
            self.skip = self.branch
            del conv["weight_bit_width"]
        self.sum = qnn.QuantReLU(**grid)
        self.down, self.down_norm = qnn.QuantConv2d(8, 8, stride=2, **conv), self._norm(8, norms)
        self.last = qnn.QuantReLU(**grid)
        self.mean = qnn.QuantIdentity(**{**signed, "return_quant_tensor": "bias_quant" in given})
        self.fc = qnn.QuantLinear(8, classes, **{**given, "bias": True, "weight_bit_width": 8})

    @staticmethod
    def _norm(channels: int, norms: bool) -> nn.Module:
        return nn.BatchNorm2d(channels) if norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu(self.stem_norm(self.stem(self.image(x))))
        x = self.sum(self.skip(x) + self.branch(self.norm(self.conv(x))))
        x = self.last(self.down_norm(self.down(x)))
        out: Tensor = self.fc(torch.flatten(self.mean(nn.functional.adaptive_avg_pool2d(x, 1)), 1))
        return out


Variant = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]  # arguments of `Small`
VARIANTS: Final[dict[str, Variant]] = {
    "statistics": ({}, {}, {}),
    "each channel": (PER_CHANNEL, {}, {}),
    "parameters": ({**PER_CHANNEL, "weight_scaling_impl_type": "parameter_from_stats"}, {}, {}),
    "logarithms": (
        {"weight_scaling_impl_type": "parameter_from_stats", "weight_restrict_scaling_type": "log_fp"},
        {"restrict_scaling_type": "log_fp"}, {},
    ),
    "constants": (
        {"weight_scaling_impl_type": "const", "weight_scaling_init": 1.0},
        {"scaling_impl_type": "const", "max_val": 4.0}, {},
    ),
    "parameters of activations": ({}, {"scaling_impl_type": "parameter", "max_val": 4.0}, {}),
    "powers of two": (
        {"weight_restrict_scaling_type": "power_of_two"}, {"restrict_scaling_type": "power_of_two"}, {},
    ),
    "shared": (
        {**PER_CHANNEL, "weight_scaling_impl_type": "parameter_from_stats"}, {}, {"shared": True}
    ),
    "biases of 32 bits": ({"bias_quant": Int32Bias}, {}, {"norms": False}),
    "biases of 16 bits": ({"bias_quant": Int16Bias}, {}, {"norms": False}),
    "biases of 8 bits": ({"bias_quant": Int8BiasPerTensorFloatInternalScaling}, {}, {"norms": False}),
    "floats for biases": ({}, {}, {"norms": False}),
    "grids of layers": ({}, {}, {"inside": True}),
    **{f"{bits} bits": ({}, {}, {"bits": bits}) for bits in (2, 3, 5, 6, 7, 8)},
}  # fmt: skip


def of(variant: str) -> Callable[[Layers, Shape], nn.Module]:
    """What makes a network of a variant, as a model file does."""
    weights, activations, rest = VARIANTS[variant]
    return lambda layers, shape: Small(shape.channels, shape.classes, weights, activations, **rest)


def answers(data: bytes, images: np.ndarray) -> np.ndarray:
    """Logits of a file for byte images, by onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.astype(np.float32) / 255.0}
    found: np.ndarray = session.run(None, given)[0]
    return found
