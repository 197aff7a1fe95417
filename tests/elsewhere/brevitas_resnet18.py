"""A model file as people have one: ResNet18 of Brevitas' layers, W4A4 with 8 bits at both ends, narrow."""

from itertools import pairwise
from typing import Any, Final

import brevitas.nn as qnn
import torch
from brevitas.quant import Int32Bias
from torch import Tensor, nn

WIDTH: Final = 8
WEIGHTS: Final[dict[str, Any]] = {
    "weight_bit_width": 4,
    "weight_scaling_per_output_channel": True,
    "bias": False,
}


class Block(nn.Module):
    """Two convolutions, added to what they read."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build it."""
        super().__init__()
        self.conv1 = qnn.QuantConv2d(inputs, outputs, 3, stride=stride, padding=1, **WEIGHTS)
        self.bn1, self.relu1 = nn.BatchNorm2d(outputs), qnn.QuantReLU(bit_width=4)
        self.conv2 = qnn.QuantConv2d(outputs, outputs, 3, padding=1, **WEIGHTS)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Sequential()
        if stride != 1 or inputs != outputs:
            down = qnn.QuantConv2d(inputs, outputs, 1, stride=stride, **WEIGHTS)
            self.down = nn.Sequential(down, nn.BatchNorm2d(outputs))
        self.sum = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)  # of both, as Brevitas adds them
        self.relu2 = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)

    def forward(self, x: Tensor) -> Tensor:
        """What it adds up."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(self.sum(y) + self.sum(self.down(x)))
        return out


class ResNet18(nn.Module):
    """A stem, eight blocks, a classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build it."""
        super().__init__()
        self.image = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        self.conv1 = qnn.QuantConv2d(channels, WIDTH, 3, padding=1, **{**WEIGHTS, "weight_bit_width": 8})
        self.bn1, self.relu = nn.BatchNorm2d(WIDTH), qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        widths = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        blocks = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            blocks += [Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
        self.blocks, self.pool = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1)
        self.mean = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        self.fc = qnn.QuantLinear(widths[-1], classes, bias=True, weight_bit_width=8, bias_quant=Int32Bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(self.relu(self.bn1(self.conv1(self.image(x)))))
        out: Tensor = self.fc(torch.flatten(self.mean(self.pool(x)), 1))
        return out


def build(layers: Any, shape: Any) -> nn.Module:
    """The network for images and classes of `shape`."""
    return ResNet18(shape.channels, shape.classes)
