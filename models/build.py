"""Construction of low-bit networks from Brevitas layers.

layers.py        layers common to all networks: convolution, activation, normalisation of the input
blocks.py        sequences of blocks with activation checkpointing
resnet.py        ResNet18, ResNet50
mobilenet.py     MobileNetV2
vit.py           a vision transformer
convnets.py      networks of plain torch layers, those of torchvision among them
own.py           user-defined networks
of_brevitas.py   networks of Brevitas' own layers
follow.py        the calls that a network makes
standard.py      the same written in one way
tokens.py        those of networks of tokens
kinds.py         kinds of calls
parts.py         which part of a tensor an index takes
plain.py         quantizers for networks of plain torch layers
weights_file.py  files of weights that were trained elsewhere
names.py         their names, matched with a network's
quant_layers.py  Brevitas' layers with a faster forward pass in training
quantizers/      presets of quantizers, PACT, DSQ
kernels/         forward and backward passes of quantizers: PyTorch, C++, Triton; integer convolutions
calibration.py   calibrate and check the quantizers of a network, and name parameter groups
deploy.py        the deploy form, which is exported
deployed.py      modules that only it has
integers.py      what stands in the place of what integer kernels do not have
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from qmu_edge.errors import ConfigError
from qmu_edge.models import convnets
from qmu_edge.models.calibration import initialise_weight_steps
from qmu_edge.models.layers import Classifier, Factory, Shape
from qmu_edge.models.mobilenet import MobileNetV2
from qmu_edge.models.own import OwnNetwork
from qmu_edge.models.resnet import ResNet18, ResNet50
from qmu_edge.models.vit import vit
from qmu_edge.plugins.registry import called, name_of
from qmu_edge.recipe import ModelRecipe

ARCHITECTURES: Final[dict[str, Callable[[ModelRecipe, Shape], Classifier]]] = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "mobilenet_v2": MobileNetV2,
}
PLAIN: Final[dict[str, Factory]] = {
    "mobilenet_v3_small": convnets.mobilenet_v3_small,
    "efficientnet_lite0": convnets.efficientnet_lite0,
    "squeezenet1_1": convnets.squeezenet,
    "allcnn": convnets.allcnn,
    "small_vgg": convnets.small_vgg,
    "vit": vit,
}


def factory_of(recipe: ModelRecipe) -> Factory | None:
    """What makes an architecture of plain layers, or that of another package; None for any other.

    Raises:
        ConfigError: Another package's is not there, not confirmed, or cannot be imported.
    """
    if name := name_of(recipe.architecture):
        return called("network", name)[1]  # type: ignore[no-any-return]
    if recipe.architecture.startswith("torchvision:"):
        return convnets.torchvision
    return PLAIN.get(recipe.architecture)


def build(
    recipe: ModelRecipe,
    shape: Shape,
    seed: int,
    factory: Factory | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Classifier:
    """A freshly initialised network: weights drawn, weight steps set, activation steps not calibrated.

    Args:
        recipe: Architecture, bits and quantizer.
        shape: Channels, classes and normalisation.
        seed: Seed of the initial weights; the caller's random state does not change.
        factory: Makes the body of a network of architecture "file".
        start: Weights that take the place of drawn ones, by name; see `qmu_edge.models.names`.

    Returns:
        A module from float images 0..1 (n, c, h, w) to logits (n, k), on the CPU.

    Raises:
        ConfigError: The architecture is "file" and there is no factory, or the factory fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _made(recipe, shape, factory)
    model.start = start
    own = model.state_dict()  # the tensors themselves
    for name, tensor in (start or {}).items():
        own[name].copy_(tensor)
    initialise_weight_steps(model)
    return model


def _made(recipe: ModelRecipe, shape: Shape, factory: Factory | None) -> Classifier:
    if recipe.architecture in ARCHITECTURES:
        return ARCHITECTURES[recipe.architecture](recipe, shape)
    factory = factory_of(recipe) or factory
    if factory is None:
        raise ConfigError(f"the network is made by the file {recipe.path}, which is not at hand")
    return OwnNetwork(recipe, shape, factory)
