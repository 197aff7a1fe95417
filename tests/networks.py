"""A network small enough to run a thousand times, of the same layers as the large ones."""

from typing import Any, Final

from torch import nn

from qmu_edge.models.blocks import Blocks
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.resnet import BasicBlock

TWO_BLOCKS: Final[dict[str, Any]] = {"architecture": "file", "path": "two_blocks.py"}  # of its recipe


def two_blocks(layers: Layers, shape: Shape) -> nn.Module:
    """The body: a stem, a residual block, and one with fewer pixels, more channels and a projection."""
    stem = nn.Sequential(layers.conv_bn(shape.channels, 8, 3, edge=True), layers.relu())
    return nn.Sequential(stem, Blocks(BasicBlock(layers, 8, 8, 1), BasicBlock(layers, 8, 16, 2)))
