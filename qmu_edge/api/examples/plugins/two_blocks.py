"""A network: two blocks of convolutions, made of ordinary PyTorch; the recipe's quantizers are put in."""

from typing import Any

from torch import nn


def block(channels: int, width: int, stride: int) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def build(layers: Any, shape: Any) -> nn.Module:
    """From images (n, c, h, w) to logits (n, k), as `build` of a model file.

    Args:
        layers: Makes quantized layers, for networks that choose their own; not needed here.
        shape: Has `channels` and `size` of the images, and how many `classes` there are.
    """
    return nn.Sequential(
        block(shape.channels, 16, 1),
        block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, shape.classes),
    )
