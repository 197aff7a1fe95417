"""A model file as people have one: plain PyTorch, two residual blocks."""

from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, added to what they read."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build it."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu, self.down = nn.ReLU(), nn.Sequential()
        if stride != 1:
            down = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(down, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """What it adds up."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.down(x))
        return out


class Net(nn.Module):
    """A stem, two blocks, a classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build it."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.blocks = nn.ReLU(), nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return out


def build(layers: Any, shape: Any) -> nn.Module:
    """The network for images and classes of `shape`."""
    return Net(shape.channels, shape.classes)
