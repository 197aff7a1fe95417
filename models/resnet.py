"""ResNet18 and ResNet50 from Brevitas layers.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; the
    32x32 stem (3x3, stride 1, no pooling) is the one that the unlearning papers use.
Differs: signed 8-bit grids on both branches of every addition; plain rectifiers (no learned shifts),
    so that the graph exports to standard operators.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.blocks import Blocks
from qmu_edge.models.layers import Classifier, Layers, Normalize, Shape, initialise
from qmu_edge.recipe import ModelRecipe

EXPANSION: Final = 4


class Residual(nn.Module):
    """Convolutions and a shortcut beside them, which is a 1x1 convolution where the shape changes."""

    def _join(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        """Make what follows the convolutions."""
        self.branch = make.signed()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = make.conv_bn(inputs, outputs, 1, stride=stride)
            self.shortcut = nn.Sequential(projection, make.signed())
        self.out = make.relu()

    def convolved(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """The convolutions of `x`, (n, d, i, j)."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Add the convolutions to the shortcut."""
        out: Tensor = self.out(self.branch(self.convolved(x)) + self.shortcut(x))
        return out


class BasicBlock(Residual):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.first = make.conv_bn(inputs, outputs, 3, stride=stride)
        self.relu = make.relu()
        self.second = make.conv_bn(outputs, outputs, 3)
        self._join(make, inputs, outputs, stride)

    def convolved(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Both convolutions."""
        convolved: Tensor = self.second(self.relu(self.first(x)))
        return convolved


class Bottleneck(Residual):
    """A 3x3 convolution between two 1x1 convolutions, of which the second has four times as many channels.

    The 3x3 convolution has the stride, as torchvision's network has it.
    """

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        inner = outputs // EXPANSION
        self.first = make.conv_bn(inputs, inner, 1)
        self.relu = make.relu()
        self.second = make.conv_bn(inner, inner, 3, stride=stride)
        self.relu2 = make.relu()
        self.third = make.conv_bn(inner, outputs, 1)
        self._join(make, inputs, outputs, stride)

    def convolved(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """All three convolutions."""
        convolved: Tensor = self.third(self.relu2(self.second(self.relu(self.first(x)))))
        return convolved


class ResNet(Classifier):
    """Four stages of blocks; 64 * width channels in the first convolution."""

    def __init__(
        self,
        recipe: ModelRecipe,
        shape: Shape,
        block: Callable[..., nn.Module],
        depths: Sequence[int],
        wider: int,
    ) -> None:
        """Build the network of `recipe` for images and classes of `shape`.

        Args:
            recipe: Bits, quantizer, stem, width.
            shape: Channels and classes.
            block: Makes a block.
            depths: Blocks of each stage.
            wider: How many times as many channels as the first convolution the first stage has.
        """
        super().__init__(recipe, shape)
        make = Layers(recipe)
        widths = [max(8, round(64 * 2**stage * recipe.width)) for stage in range(4)]
        self.normalize = Normalize(shape)
        self.input = make.edge()
        self.stem = _stem(make, shape.channels, widths[0], recipe.stem)
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(block(make, inputs, outputs * wider, stride))
                inputs = outputs * wider
        self.blocks = Blocks(*blocks)
        self.pooled = make.edge()
        self.flatten = nn.Flatten()
        self.head = make.linear(inputs, shape.classes)
        initialise(list(self.modules()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of float images 0..1."""
        features = self.blocks(self.stem(self.input(self.normalize(x))))
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        logits: Tensor = self.head(self.flatten(pooled))
        return logits


class ResNet18(ResNet):
    """Four stages of two blocks."""

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Build the network of `recipe` for images and classes of `shape`."""
        super().__init__(recipe, shape, BasicBlock, (2, 2, 2, 2), 1)


class ResNet50(ResNet):
    """Stages of 3, 4, 6 and 3 bottlenecks."""

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Build the network of `recipe` for images and classes of `shape`."""
        super().__init__(recipe, shape, Bottleneck, (3, 4, 6, 3), EXPANSION)


def _stem(make: Layers, channels: int, width: int, stem: str) -> nn.Sequential:
    if stem == "cifar":
        return nn.Sequential(make.conv_bn(channels, width, 3, edge=True), make.relu())
    # Max pooling selects among quantized values, so its output needs no quantizer.
    first = make.conv_bn(channels, width, 7, stride=2, edge=True)
    return nn.Sequential(first, make.relu(), nn.MaxPool2d(3, stride=2, padding=1))
