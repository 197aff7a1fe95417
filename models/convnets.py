"""Ready networks of plain torch layers, which get the recipe's quantizers; torchvision's networks among them.

Source: EfficientNet-Lite0: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946, without
    squeeze-and-excitation and with ReLU6. MobileNetV3: Howard et al., ICCV 2019, arXiv:1905.02244. SqueezeNet
    1.1: Iandola et al., 2016, arXiv:1602.07360. AllCNN: Springenberg et al., ICLR 2015 workshop,
    arXiv:1412.6806, with batch-norm and a linear classifier as in the unlearning papers. SmallVGG: Simonyan
    and Zisserman, ICLR 2015, arXiv:1409.1556, its first six convolutions in pairs, with batch-norm.
Differs: the 32x32 stems keep stride 1 in the first convolution, and that of EfficientNet-Lite0 in its second
    stage. The imagenet stems of AllCNN and SmallVGG begin with stride 4.
"""

from itertools import pairwise
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.layers import Layers, Shape, initialise
from qmu_edge.models.mobilenet import channels

# expansion, output channels, blocks, stride of the first block (imagenet stem), kernel
LITE: Final = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    initialise([conv])
    return [conv, nn.BatchNorm2d(outputs)]


def _classifier(inputs: int, classes: int, dropout: float = 0.0) -> list[nn.Module]:
    linear = nn.Linear(inputs, classes)
    initialise([linear])
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), linear]


class Residual(nn.Module):
    """A branch that is added to its input."""

    def __init__(self, branch: nn.Module) -> None:
        """Store the branch."""
        super().__init__()
        self.branch = branch

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Their sum."""
        out: Tensor = x + self.branch(x)
        return out


def efficientnet_lite0(layers: Layers, shape: Shape) -> nn.Module:
    """EfficientNet-Lite0."""
    width, small = layers.recipe.width, layers.recipe.stem == "cifar"
    inputs = channels(32, width)
    made = [*_conv_bn(shape.channels, inputs, 3, 1 if small else 2), nn.ReLU6()]
    for stage, (expansion, base, repeats, first, kernel) in enumerate(LITE):
        outputs = channels(base, width)
        for number in range(repeats):
            stride = first if not number and not (small and stage == 1) else 1
            inner = inputs * expansion
            branch = [*_conv_bn(inputs, inner, 1), nn.ReLU6()] if expansion != 1 else []
            branch += [
                *_conv_bn(inner, inner, kernel, stride, inner),
                nn.ReLU6(),
                *_conv_bn(inner, outputs, 1),
            ]
            block: nn.Module = nn.Sequential(*branch)
            made.append(Residual(block) if stride == 1 and inputs == outputs else block)
            inputs = outputs
    last = channels(1280, max(1.0, width))
    return nn.Sequential(
        *made, *_conv_bn(inputs, last, 1), nn.ReLU6(), *_classifier(last, shape.classes, 0.2)
    )


class Fire(nn.Module):
    """Few channels, then 1x1 and 3x3 convolutions of them, side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        """Build the block; it gives twice `expanded` channels."""
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Joined channels."""
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


def squeezenet(layers: Layers, shape: Shape) -> nn.Module:
    """SqueezeNet 1.1: no batch-norm, and a convolution for a classifier."""
    width = layers.recipe.width
    first, *sizes = (
        max(8, round(n * width))
        for n in (64, 16, 64, 16, 64, 32, 128, 32, 128, 48, 192, 48, 192, 64, 256, 64, 256)
    )
    stem = nn.Conv2d(shape.channels, first, 3, 1 if layers.recipe.stem == "cifar" else 2, 1)
    nn.init.kaiming_uniform_(stem.weight)
    made: list[nn.Module] = [stem, nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    inputs = first
    for number, (squeezed, expanded) in enumerate(zip(sizes[::2], sizes[1::2], strict=True)):
        if number in (2, 4):
            made.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        made.append(Fire(inputs, squeezed, expanded))
        inputs = 2 * expanded
    last = nn.Conv2d(inputs, shape.classes, 1)
    nn.init.normal_(last.weight, std=0.01)
    return nn.Sequential(*made, nn.Dropout(0.5), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def allcnn(layers: Layers, shape: Shape) -> nn.Module:
    """AllCNN: strided convolutions in the place of pooling."""
    small, large = (max(8, round(n * layers.recipe.width)) for n in (96, 192))
    first = 1 if layers.recipe.stem == "cifar" else 4
    made = [*_conv_bn(shape.channels, small, 3, first), nn.ReLU()]
    form = (
        (small, 3, 1),
        (small, 3, 2),
        (large, 3, 1),
        (large, 3, 1),
        (large, 3, 2),
        (large, 3, 1),
        (large, 1, 1),
    )
    inputs = small
    for outputs, kernel, stride in form:
        made += [*_conv_bn(inputs, outputs, kernel, stride), nn.ReLU()]
        if stride == 2:
            made.append(nn.Dropout(0.5))
        inputs = outputs
    return nn.Sequential(*made, *_classifier(inputs, shape.classes))


def small_vgg(layers: Layers, shape: Shape) -> nn.Module:
    """SmallVGG: three times two convolutions and a pooling."""
    widths = [max(8, round(n * layers.recipe.width)) for n in (64, 64, 128, 128, 256, 256)]
    made: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise([shape.channels, *widths])):
        stride = 4 if not number and layers.recipe.stem == "imagenet" else 1
        made += [*_conv_bn(inputs, outputs, 3, stride), nn.ReLU()]
        if number % 2:
            made.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*made, *_classifier(widths[-1], shape.classes))


def mobilenet_v3_small(layers: Layers, shape: Shape) -> nn.Module:
    """MobileNetV3-small of torchvision, with the recipe's width and stem."""
    made = _of_torchvision("mobilenet_v3_small", shape, width_mult=layers.recipe.width)
    if layers.recipe.stem == "cifar":
        next(m for m in made.modules() if isinstance(m, nn.Conv2d)).stride = (1, 1)
    return made


def torchvision(layers: Layers, shape: Shape) -> nn.Module:
    """The network of torchvision that the recipe names, as it is.

    Raises:
        ConfigError: There is none of this name, or the recipe asks for another width.
    """
    if layers.recipe.width != 1.0:
        raise ConfigError(f"model.width is {layers.recipe.width}; a network of torchvision takes 1 alone")
    return _of_torchvision(layers.recipe.architecture.removeprefix("torchvision:"), shape)


def _of_torchvision(name: str, shape: Shape, **options: Any) -> nn.Module:
    """An untrained network, for as many channels as the images have."""
    try:
        from torchvision import models
    except ModuleNotFoundError:
        raise ConfigError('torchvision is not installed: it comes with the extra "datasets"') from None
    if name not in models.list_models(module=models):
        known = ", ".join(models.list_models(module=models))
        raise ConfigError(f"torchvision has no network {name}; it has {known}")
    made: nn.Module = models.get_model(name, weights=None, num_classes=shape.classes, **options)
    for path, module in made.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != shape.channels:
                given = {k: getattr(module, k) for k in ("kernel_size", "stride", "padding")}
                bias = module.bias is not None
                made.set_submodule(path, nn.Conv2d(shape.channels, module.out_channels, bias=bias, **given))
            break
    return made
