"""Layers common to all networks: quantized convolution and linear layers, activations, input normalisation.

Every input of a convolution is quantized, including the results of residual additions: with a float tensor
between two integer layers a device could run neither in integers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models import quant_layers
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
    """

    channels: Count
    classes: Count
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.5,)
    std: tuple[Positive, ...] = (0.25,)

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


class Normalize(nn.Module):
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

    def signed(self) -> nn.Module:
        """Signed grid for the operands of an addition."""
        if self.recipe.activation_bits == "float":
            return nn.Identity()
        return quant_layers.QuantIdentity(
            act_quant=self.preset.signed, bit_width=self.recipe.residual_bits, **self._steps
        )

    def edge(self) -> nn.Module:
        """Signed grid for the inputs of the first and the last layer.

        Inputs of the last layer are not negative, so that a signed grid wastes one bit; but every runtime
        supports signed 8-bit integers, and not every one unsigned ones.
        """
        if self.recipe.activation_bits == "float" or self.recipe.edge_bits == "float":
            return nn.Identity()
        return quant_layers.QuantIdentity(
            act_quant=self.preset.signed, bit_width=self.recipe.edge_bits, **self._steps
        )


Factory = Callable[[Layers, Shape], nn.Module]  # `build` of a model file


def initialise(modules: Sequence[nn.Module]) -> None:
    """He initialisation of convolutions, small normal weights for linear layers."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
