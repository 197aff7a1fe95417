"""A small vision transformer of plain torch layers, which get the recipe's quantizers.

Source: DeiT-tiny: Touvron et al., "Training data-efficient image transformers", ICML 2021, arXiv:2012.12877,
    of Dosovitskiy et al., ICLR 2021, arXiv:2010.11929.
Differs: 6 blocks, whose hidden layers are twice as wide, and patches of 4 pixels, for images of 32; the mean
    of all tokens in the place of a class token (Beyer et al., arXiv:2205.01580). The imagenet stem has
    patches of 16 pixels. No dropout and no stochastic depth.
Shapes: n images, t tokens, d numbers of each.
"""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.layers import Layers, Shape

HEAD: Final = 64  # numbers of a head
BLOCKS: Final = 6
SPREAD: Final = 0.02
SIDE: Final = 32  # of images whose size is not known


class Attention(nn.Module):
    """Attention of several heads, of tokens to each other."""

    def __init__(self, width: int, heads: int) -> None:
        """Build it for tokens of `width` numbers."""
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """What each token sees in all."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(seen.transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """Attention and two layers, each behind a layer-norm and added to what enters."""

    def __init__(self, width: int, heads: int) -> None:
        """Build it for tokens of `width` numbers."""
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Two sums."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Body(nn.Module):
    """Patches, blocks, and a layer-norm; its tokens lie in a plane, whose mean is classified."""

    def __init__(self, channels: int, width: int, patch: int, side: int) -> None:
        """Build the body for images of so many pixels.

        Raises:
            ConfigError: They are smaller than a patch.
        """
        super().__init__()
        self.tokens = side // patch
        if not self.tokens:
            raise ConfigError(f"vit: images of {side} pixels, allowed are patches of {patch} and more")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(torch.empty(1, self.tokens**2, width))
        self.blocks = nn.Sequential(*(Block(width, max(1, width // HEAD)) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=SPREAD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Features."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = self.norm(self.blocks(x))
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], self.tokens, self.tokens)


def vit(layers: Layers, shape: Shape) -> nn.Module:
    """The body; the classifier is that of every network of features."""
    heads = max(1, round(3 * layers.recipe.width))
    width = heads * HEAD if layers.recipe.width * 3 >= 1 else max(8, 8 * round(24 * layers.recipe.width))
    return Body(shape.channels, width, 4 if layers.recipe.stem == "cifar" else 16, shape.size or SIDE)
