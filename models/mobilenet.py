"""MobileNetV2 from Brevitas layers.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    arXiv:1801.04381; the 32x32 stem keeps stride 1 in the first convolution and the second stage, as
    in the unlearning papers.
Differs: bottleneck tensors are on a signed grid of `residual_bits`, so that every convolution and
    addition has quantized inputs.
"""

from typing import Final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.models.blocks import Blocks
from qmu_edge.models.layers import Classifier, Layers, Normalize, Shape, initialise
from qmu_edge.recipe import ModelRecipe

# expansion, output channels, blocks, stride of the first block (imagenet stem)
STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def channels(base: int, width: float) -> int:
    """`base * width` rounded to a multiple of 8, never more than 10 % below.

    >>> channels(32, 0.5), channels(24, 0.5), channels(16, 0.1)
    (16, 16, 8)
    """
    rounded = max(8, int(base * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * base * width else rounded


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut where shapes agree."""

    def __init__(self, make: Layers, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        """Build the block; with expansion 1 there is no expanding convolution."""
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [make.conv_bn(inputs, hidden, 1), make.relu(ceiling=6.0)]
        layers += [make.conv_bn(hidden, hidden, 3, stride=stride, groups=hidden)]
        layers += [make.relu(ceiling=6.0), make.conv_bn(hidden, outputs, 1), make.signed()]
        self.branch = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs
        self.out: nn.Module = make.signed() if self.adds else nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """The bottleneck, added to its input where shapes agree."""
        branch: Tensor = self.branch(x)
        return self.out(branch + x) if self.adds else branch


class MobileNetV2(Classifier):
    """Seven stages of inverted residuals; `width` 0.5 in the papers."""

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Build the network of `recipe` for images and classes of `shape`."""
        super().__init__(recipe, shape)
        make = Layers(recipe)
        small = recipe.stem == "cifar"
        inputs = channels(32, recipe.width)
        self.normalize = Normalize(shape)
        self.input = make.edge()
        first = make.conv_bn(shape.channels, inputs, 3, stride=1 if small else 2, edge=True)
        self.stem = nn.Sequential(first, make.relu(ceiling=6.0))
        blocks: list[nn.Module] = []
        for stage, (expansion, base, repeats, stride) in enumerate(STAGES):
            outputs = channels(base, recipe.width)
            stride = 1 if small and stage == 1 else stride
            for s in [stride] + [1] * (repeats - 1):
                blocks.append(InvertedResidual(make, inputs, outputs, expansion=expansion, stride=s))
                inputs = outputs
        self.blocks = Blocks(*blocks)
        features = channels(1280, max(1.0, recipe.width))
        self.last = nn.Sequential(make.conv_bn(inputs, features, 1), make.relu(ceiling=6.0))
        self.pooled = make.edge()
        self.dropout = nn.Dropout(0.2)
        self.flatten = nn.Flatten()
        self.head = make.linear(features, shape.classes)
        initialise(list(self.modules()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of float images 0..1."""
        features = self.last(self.blocks(self.stem(self.input(self.normalize(x)))))
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        logits: Tensor = self.head(self.dropout(self.flatten(pooled)))
        return logits
