"""ResNet18 from Brevitas layers.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; the
    32x32 stem (3x3, stride 1, no pooling) is the one that the unlearning papers use.
Differs: signed 8-bit grids on both branches of every addition; plain rectifiers (no learned shifts),
    so that the graph exports to standard operators.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.blocks import Blocks
from qmu_edge.models.layers import Classifier, Layers, Normalize, Shape, initialise
from qmu_edge.recipe import ModelRecipe


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        """Build the block; the shortcut is a 1x1 convolution where the shape changes."""
        super().__init__()
        self.first = make.conv_bn(inputs, outputs, 3, stride=stride)
        self.relu = make.relu()
        self.second = make.conv_bn(outputs, outputs, 3)
        self.branch = make.signed()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = make.conv_bn(inputs, outputs, 1, stride=stride)
            self.shortcut = nn.Sequential(projection, make.signed())
        self.out = make.relu()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Add the branch to the shortcut."""
        branch = self.branch(self.second(self.relu(self.first(x))))
        out: Tensor = self.out(branch + self.shortcut(x))
        return out


class ResNet18(Classifier):
    """Four stages of two blocks; 64 * width channels in the first."""

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Build the network of `recipe` for images and classes of `shape`."""
        super().__init__(recipe, shape)
        make = Layers(recipe)
        widths = [max(8, round(64 * 2**stage * recipe.width)) for stage in range(4)]
        self.normalize = Normalize(shape)
        self.input = make.edge()
        self.stem = _stem(make, shape.channels, widths[0], recipe.stem)
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(BasicBlock(make, inputs, outputs, stride))
                inputs = outputs
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


def _stem(make: Layers, channels: int, width: int, stem: str) -> nn.Sequential:
    if stem == "cifar":
        return nn.Sequential(make.conv_bn(channels, width, 3, edge=True), make.relu())
    # Max pooling selects among quantized values, so its output needs no quantizer.
    first = make.conv_bn(channels, width, 7, stride=2, edge=True)
    return nn.Sequential(first, make.relu(), nn.MaxPool2d(3, stride=2, padding=1))
