"""Networks for tests: one small enough to run a thousand times, and plain ones of all layers."""

from typing import Any, Final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.models import mobilenet
from qmu_edge.models.blocks import Blocks
from qmu_edge.models.build import ARCHITECTURES
from qmu_edge.models.layers import Layers, Shape, StochasticDepth
from qmu_edge.models.resnet import BasicBlock, ResNet
from qmu_edge.recipe import ModelRecipe

EACH: Final = [a if a != "resnet50" else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
TWO_BLOCKS: Final[dict[str, Any]] = {"architecture": "file", "path": "two_blocks.py"}  # of its recipe


class Shallow(ResNet):
    """ResNet18 with one block in each of its four stages."""

    def __init__(self, recipe: ModelRecipe, shape: Shape) -> None:
        """Build the network of `recipe` for images and classes of `shape`."""
        super().__init__(recipe, shape, BasicBlock, (1, 1, 1, 1), 1)


def make_shallow(patch: pytest.MonkeyPatch) -> None:
    """Give ResNet18 four blocks and MobileNetV2 three, where what is tested is not their depth."""
    patch.setitem(ARCHITECTURES, "resnet18", Shallow)
    patch.setattr(mobilenet, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 2)))


def two_blocks(layers: Layers, shape: Shape) -> nn.Module:
    """The body: a stem, a residual block, and one with fewer pixels, more channels and a projection."""
    stem = nn.Sequential(layers.conv_bn(shape.channels, 8, 3, edge=True), layers.relu())
    return nn.Sequential(stem, Blocks(BasicBlock(layers, 8, 8, 1), BasicBlock(layers, 8, 16, 2)))


class PreActivated(nn.Module):
    """A block whose batch-norms come first, and are attributes like its convolutions."""

    def __init__(self, channels: int) -> None:
        """Build the block."""
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        y = self.conv1(self.relu(self.bn1(x)))
        out: Tensor = x + self.conv2(self.relu(self.bn2(y)))
        return out


class PreActivation(nn.Module):
    """Blocks of them, and a classifier of its own."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.a, self.b, self.bn = PreActivated(8), PreActivated(8), nn.BatchNorm2d(8)
        self.fc, self.drop = nn.Linear(8, classes), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.bn(self.b(self.a(self.stem(x)))))
        x = F.adaptive_avg_pool2d(x, 1)
        out: Tensor = self.fc(self.drop(torch.flatten(x, 1)))
        return out


class Squeezed(nn.Module):
    """Squeeze-and-excitation, hard-swish, joined channels."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.stem, self.bn = nn.Conv2d(channels, 8, 3, padding="same"), nn.BatchNorm2d(8)
        self.act, self.relu = nn.Hardswish(), nn.ReLU()
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=(1, 1), groups=8)
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.out, self.bn2 = nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.act(self.down(self.act(self.bn(self.stem(x)))))
        gate = F.hardsigmoid(self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        x = self.relu(self.bn2(self.out(torch.cat([x, x * gate], 1))))
        out: Tensor = self.head(x.mean([2, 3]))
        return out


class Moved(nn.Module):
    """Padding, dilation, pooling, shuffled channels, parts, functions of numbers, linear layers inside."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network, for images of 8 pixels."""
        super().__init__()
        self.pad, self.c1, self.b1 = nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(channels, 8, 2), nn.BatchNorm2d(8)
        self.c2, self.leaky = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.LeakyReLU(0.1)
        self.average, self.largest = nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.c3, self.up = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Upsample(scale_factor=2)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu6(self.b1(self.c1(self.pad(x))))
        x = self.average(self.leaky(self.c2(x)))
        n, c, h, w = x.size()
        x = torch.transpose(x.view(n, 2, c // 2, h, w), 1, 2).contiguous().view(n, -1, h, w)
        a, _ = x.chunk(2, dim=1)
        a = self.c3(a)
        x = torch.cat((a * F.relu6(a + 3) / 6, x[:, x.shape[1] // 2 :, ...]), dim=1)
        x = self.up(self.largest(x)).permute(0, 1, 3, 2)
        x = F.gelu(self.fc1(x.reshape(x.shape[0], -1)))
        out: Tensor = self.fc2(F.silu(x))
        return out


class Repeated(nn.Module):
    """A convolution, its batch-norm and its rectifier, twice; a convolution for a classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.stem, self.conv = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.relu, self.last = nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu(self.stem(x))
        for _ in range(2):
            x = self.relu(self.bn(self.conv(x)))
        out: Tensor = self.relu(self.last(x)).mean((-1, -2))
        return out


class Dense(nn.Sequential):
    """Linear layers alone, with batch-norms of rows."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network, for images of 8 pixels."""
        super().__init__(
            nn.Flatten(), nn.Linear(64 * channels, 16), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes),
        )  # fmt: skip


class Tokens(nn.Module):
    """Attention of torch and attention written out, a token of the whole image, learned places."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network, for images of 8 pixels."""
        super().__init__()
        self.patches, self.token = nn.Conv2d(channels, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
        self.places, self.gain = nn.Parameter(torch.randn(1, 17, 8)), nn.Parameter(torch.rand(8))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        n, t, d = x.shape
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.qkv(self.norm2(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
        seen = ((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v
        x = x + self.proj(seen.transpose(1, 2).reshape(n, t, d)) * self.gain
        x = x + self.mlp(self.norm3(x))
        out: Tensor = self.head(x[:, 0])
        return out


class Larger(nn.Module):
    """Transposed convolutions, one with batch-norm and in groups; a branch that is left out at times."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build the network, for images of 8 pixels."""
        super().__init__()
        self.down, self.bn = nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=False)
        self.bn2, self.again = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 6, 3, (1, 2), 1, (0, 1))
        self.same, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, classes)
        self.depth = StochasticDepth(0.2, "row")

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.again(F.relu(self.bn2(self.up(F.relu(self.bn(self.down(x))))))))
        x = x + self.depth(self.same(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def features(layers: Layers, shape: Shape) -> nn.Module:
    """A body of plain layers."""
    return nn.Sequential(
        nn.Conv2d(shape.channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3), nn.Hardsigmoid(), nn.Conv2d(8, 8, 1),
    )  # fmt: skip


FACTORIES: Final[dict[str, Any]] = {
    "features": features,
    **{
        kind.__name__: (lambda layers, shape, kind=kind: kind(shape.channels, shape.classes))
        for kind in (PreActivation, Squeezed, Moved, Repeated, Dense, Tokens, Larger)
    },
}
