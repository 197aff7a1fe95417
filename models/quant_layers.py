"""Brevitas' layers with a faster forward pass in training.

A Brevitas layer passes each tensor through a chain of proxies and returns it with scale and bit width, which
training on learned steps does not need. So these layers compute the quantized values directly from the step:
the same numbers in one fused pass, with the rectifier, and weights in the precision of the convolution. A
convolution of two tensors with known grids may be computed in integers, see `kernels/integer_conv.py`.
Evaluation, calibration, export and all other quantizers use Brevitas' implementation; statistics over many
images may be taken `quickly`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from brevitas.core.quant import RescalingIntQuant
from torch import Tensor, nn

from qmu_edge.models.kernels import integer_conv
from qmu_edge.models.kernels.fused import FusedIntQuant
from qmu_edge.models.quantizers.presets import LearnedStep


def _trains(proxy: Any, quantizer: Any) -> bool:
    return (
        proxy.is_quant_enabled
        and quantizer.training
        and isinstance(getattr(quantizer, "scaling_impl", None), LearnedStep)
        and not quantizer.scaling_impl.observing
    )


@contextmanager
def quickly(model: nn.Module, *, activations: bool = True) -> Iterator[None]:
    """Evaluate by the fused passes, where training rounds to the same grid as evaluation.

    For statistics over many images: a third of the time. `activations` says whether the quantizers of
    activations do so as well; hooks on those see nothing then.
    """
    chosen = [
        module
        for name, module in model.named_modules()
        if isinstance(module, RescalingIntQuant)
        and type(module.int_quant) is FusedIntQuant  # those of PACT and DSQ train by other passes
        and isinstance(module.scaling_impl, LearnedStep)
        and (activations or "act_quant" not in name)
    ]
    modes = [quantizer.training for quantizer in chosen]
    for quantizer in chosen:
        quantizer.training = True
    try:
        yield
    finally:
        for quantizer, mode in zip(chosen, modes, strict=True):
            quantizer.training = mode


def _activation(layer: Any, x: Tensor, *, rectify: bool) -> Tensor | None:
    """The quantized input, or None where Brevitas' implementation is needed."""
    fused = layer.act_quant.fused_activation_quant_proxy
    if fused is None or not _trains(layer.act_quant, fused.tensor_quant):
        return None
    quantizer = fused.tensor_quant
    grid = quantizer.int_quant.grid(quantizer.msb_clamp_bit_width_impl)
    if rectify:
        grid = grid._replace(floor=0.0)
    made: Tensor = quantizer.int_quant.on_learned_step(x, quantizer.scaling_impl, grid, x.dtype)
    return made


def _weight(layer: Any) -> Tensor | None:
    """The quantized weight in the product's precision, or None where Brevitas' implementation is needed."""
    quantizer, weight = layer.weight_quant.tensor_quant, layer.weight
    if not _trains(layer.weight_quant, quantizer):
        return None
    device = weight.device.type
    mixed = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if mixed else weight.dtype
    grid = quantizer.int_quant.grid(quantizer.msb_clamp_bit_width_impl)
    made: Tensor = quantizer.int_quant.on_learned_step(weight, quantizer.scaling_impl, grid, dtype)
    return made


def _in_float32(tensor: Any) -> Tensor | None:
    """The values of a tensor, or of Brevitas' quantized tensor."""
    return None if tensor is None else getattr(tensor, "value", tensor).float()


class QuantConv2d(qnn.QuantConv2d):  # type: ignore[misc]
    """Convolution with quantized weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` (n, c, h, w)."""
        weight = _weight(self)
        if weight is None:
            return super().forward(x)  # type: ignore[no-any-return]
        made = None if self._steps_over(x) else integer_conv.convolve(x, weight, self)
        return self._conv_forward(x, weight, self.bias) if made is None else made

    def _conv_forward(self, x: Any, weight: Any, bias: Any) -> Any:
        # oneDNN leaves parts of such a weight gradient unwritten in bfloat16: whatever memory held before.
        if not x.is_cpu or not self._steps_over(x):
            return super()._conv_forward(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            made = super()._conv_forward(*(_in_float32(tensor) for tensor in (x, weight, bias)))
        return made.to(x.dtype)

    def _steps_over(self, x: Tensor) -> bool:
        """Whether a side of the image is smaller than the stride."""
        return any(side < stride for side, stride in zip(x.shape[-2:], self.stride, strict=True))


class QuantLinear(qnn.QuantLinear):  # type: ignore[misc]
    """Linear layer with quantized weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (n, i) to (n, o)."""
        weight = _weight(self)
        if weight is None:
            return super().forward(x)  # type: ignore[no-any-return]
        return F.linear(x, weight, self.bias)


class QuantReLU(qnn.QuantReLU):  # type: ignore[misc]
    """Rectifier onto an unsigned grid."""

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and quantize `x`."""
        quantized = _activation(self, x, rectify=True)
        return super().forward(x) if quantized is None else quantized


class QuantIdentity(qnn.QuantIdentity):  # type: ignore[misc]
    """Activation quantizer without a rectifier."""

    def forward(self, x: Tensor) -> Tensor:
        """Quantize `x`."""
        quantized = _activation(self, x, rectify=False)
        return super().forward(x) if quantized is None else quantized
