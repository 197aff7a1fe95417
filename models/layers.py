"""Layers common to all networks: quantized convolution and linear layers, activations, input normalisation.

Every input of a convolution is quantized, including the results of residual additions: with a float tensor
between two integer layers a device could run neither in integers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models import quant_layers
from qmu_edge.models.kernels.steps import short_mantissa
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import Count, ModelRecipe, Positive
from qmu_edge.runtime.parallel import forward
from qmu_edge.runtime.throughput import entered


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Input channels, normalisation and classes of a network.

    Attributes:
        channels: Image channels c.
        classes: Outputs k.
        mean, std: Normalisation per channel (or one value for all), for pixels 0..1.
        size: Side of the images in pixels; 0 where it is not known.
    """

    channels: Count
    classes: Count
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.5,)
    std: tuple[Positive, ...] = (0.25,)
    size: Annotated[int, Field(ge=0)] = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Check that the normalisation fits the channels.

        Raises:
            ConfigError: `mean` or `std` has neither one value nor one for each channel.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ConfigError(
                    f"data.{name}: {len(values)} values, allowed 1 or {self.channels}, one for each channel"
                )


class Classifier(nn.Module):
    """A network from float images 0..1 (n, c, h, w) to logits (n, k).

    Attributes:
        recipe, shape, factory, start: Arguments of `qmu_edge.models.build.build` for a network of the same
            kind.
        difficulty: How hard each image of the dataset was to learn, see `qmu_edge.train.difficulty`; None
            where that is not known.
    """

    factory: "Factory | None" = None
    start: Mapping[str, Tensor] | None = None
    difficulty: UInt8[Tensor, " N"] | None = None

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Store `recipe` and `shape`."""
        super().__init__()
        self.recipe = recipe
        self.shape = shape

    def __call__(self, images: Tensor) -> Any:
        """Logits, see `forward`; the images are counted by `qmu_edge.runtime.throughput`."""
        entered(images)
        return forward(super().__call__, images)


class Single(nn.Module):
    """A module that is one call in a graph, whatever it consists of."""


class Normalize(Single):
    """(x - mean) / std inside the network, so that a device feeds plain pixels in 0..1."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, shape: Shape) -> None:
        """Store mean and 1/std of `shape` as constants of the network."""
        super().__init__()
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (shape.mean, shape.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("inverse_std", 1.0 / std, persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise pixels in 0..1."""
        return (x - self.mean) * self.inverse_std


class Line(Single):
    """slope * x + offset: arithmetic with numbers."""

    def __init__(self, slope: float, offset: float) -> None:
        """Store the two numbers."""
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The line at `x`."""
        return x * self.slope + self.offset


class StochasticDepth(Single):
    """At times nothing, of a batch or of an image, as torchvision has it; else more, so the mean stays."""

    def __init__(self, p: float, mode: str) -> None:
        """Store the share that becomes nothing, and "batch" or "row"."""
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """What it is, in evaluation."""
        if not self.training or not self.p:
            return x
        size = [len(x) if self.mode == "row" else 1] + [1] * (x.dim() - 1)
        kept = torch.empty(size, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * (kept.div_(1 - self.p) if self.p < 1 else kept)


class AveragePool(Single):
    """Average pooling whose divisor is as short as a gain, so that integer kernels compute the same.

    Attributes:
        kernel, stride, padding: Height and width; zeros of the padding count.
        factor: What the sum over a window is multiplied by: 1 / its size, rounded to 8 bits.
    """

    def __init__(self, pool: nn.AvgPool2d) -> None:
        """Store the pooling of torch, whose divisor is that of `pool`."""
        super().__init__()
        self.kernel, self.stride, self.padding = (
            pair(v) for v in (pool.kernel_size, pool.stride, pool.padding)
        )
        size = self.kernel[0] * self.kernel[1]
        self.factor = float(short_mantissa(torch.tensor(1.0 / (pool.divisor_override or size)), 8))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        """Pooled."""
        sums = F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)
        return sums * self.factor


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Height and width; a single number stands for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class Layers:
    """Factory of the layers of one network, according to its recipe."""

    def __init__(self, recipe: ModelRecipe) -> None:
        """Look up the quantizer preset of `recipe`."""
        self.recipe = recipe
        self.preset = PRESETS[recipe.quantizer]
        self._steps = {"power_of_two": recipe.activation_steps == "power_of_two"}

    def _weight(self, bits: int | Literal["float"]) -> dict[str, Any]:
        if bits == "float":
            return {"weight_quant": None}
        bits = 7 if bits == 8 and self.recipe.reduce_range else bits
        quantizer = self.preset.weight2 if bits == 2 else self.preset.weight
        return {"weight_quant": quantizer, "weight_bit_width": bits}

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        edge: bool = False,
    ) -> nn.Module:
        """Convolution without bias (batch-norm follows); `edge` marks the first layer."""
        bits = self.recipe.edge_bits if edge else self.recipe.weight_bits
        return quant_layers.QuantConv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
            **self._weight(bits),
        )

    def like(self, layer: nn.Conv2d | nn.Linear, *, edge: bool) -> nn.Module:
        """A quantized layer with weight and bias of a plain one; `edge` marks the first and the last."""
        return self.copied(layer, self._weight(self.recipe.edge_bits if edge else self.recipe.weight_bits))

    def copied(self, layer: nn.Conv2d | nn.Linear, weight: Mapping[str, Any]) -> nn.Module:
        """The same with a quantizer of one's own: `weight` holds arguments of Brevitas' layers."""
        given: dict[str, Any] = {"bias": layer.bias is not None, **weight}
        made: nn.Module
        if isinstance(layer, nn.Linear):
            made = quant_layers.QuantLinear(layer.in_features, layer.out_features, **given)
        else:
            form = {k: getattr(layer, k) for k in ("stride", "padding", "dilation", "groups", "padding_mode")}
            kernel: Any = layer.kernel_size
            made = quant_layers.QuantConv2d(layer.in_channels, layer.out_channels, kernel, **form, **given)
            made.was_transposed = getattr(layer, "was_transposed", False)
        with torch.no_grad():
            for name, parameter in layer.named_parameters(recurse=False):
                made.get_parameter(name).copy_(parameter)
        return made

    def conv_bn(self, *args: int, **kwargs: Any) -> nn.Sequential:
        """Convolution and batch-norm."""
        return nn.Sequential(self.conv(*args, **kwargs), nn.BatchNorm2d(args[1]))

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """The classifier, with a float bias."""
        return quant_layers.QuantLinear(inputs, outputs, bias=True, **self._weight(self.recipe.edge_bits))

    def relu(self, *, ceiling: float | None = None) -> nn.Module:
        """Rectifier onto an unsigned grid; `ceiling` 6 makes the float version a ReLU6."""
        bits = self.recipe.activation_bits
        if bits == "float":
            return nn.ReLU() if ceiling is None else nn.Hardtanh(0.0, ceiling)
        return quant_layers.QuantReLU(act_quant=self.preset.unsigned, bit_width=bits, **self._steps)

    def grid(self, bits: int, *, signed: bool, rectifies: bool = False, narrow: bool = False) -> nn.Module:
        """A grid of so many bits, perhaps with a rectifier, or without the smallest code."""
        quantizer = self.preset.signed if signed else self.preset.unsigned
        kind = quant_layers.QuantReLU if rectifies else quant_layers.QuantIdentity
        return kind(act_quant=quantizer, bit_width=bits, narrow_range=narrow, **self._steps)

    def signed(self) -> nn.Module:
        """Signed grid for the operands of an addition."""
        if self.recipe.activation_bits == "float":
            return nn.Identity()
        return self.grid(self.recipe.residual_bits, signed=True)

    def edge(self) -> nn.Module:
        """Signed grid for the inputs of the first and the last layer.

        Inputs of the last layer are not negative, so that a signed grid wastes one bit; but every runtime
        supports signed 8-bit integers, and not every one unsigned ones.
        """
        if self.recipe.activation_bits == "float" or self.recipe.edge_bits == "float":
            return nn.Identity()
        return self.grid(self.recipe.edge_bits, signed=True)


Factory = Callable[[Layers, Shape], nn.Module]  # `build` of a model file


def initialise(modules: Sequence[nn.Module]) -> None:
    """He initialisation of convolutions, small normal weights for linear layers."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
