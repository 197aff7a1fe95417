"""Construction of low-bit networks from Brevitas layers.

layers.py        layers common to all networks: convolution, activation, normalisation of the input
blocks.py        sequences of blocks with activation checkpointing
resnet.py        ResNet18
mobilenet.py     MobileNetV2
own.py           user-defined networks
weights_file.py  files of weights that were trained elsewhere
names.py         their names, matched with a network's
quant_layers.py  Brevitas' layers with a faster forward pass in training
quantizers/      presets of quantizers, PACT, DSQ
kernels/         forward and backward passes of quantizers: PyTorch, C++, Triton; integer convolutions
calibration.py   calibrate and check the quantizers of a network, and name parameter groups
deploy.py        the deploy form, which is exported
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from qmu_edge.errors import ConfigError
from qmu_edge.models.calibration import initialise_weight_steps
from qmu_edge.models.layers import Classifier, Factory, Shape
from qmu_edge.models.mobilenet import MobileNetV2
from qmu_edge.models.own import OwnNetwork
from qmu_edge.models.resnet import ResNet18
from qmu_edge.recipe import ModelRecipe

ARCHITECTURES: Final[dict[str, Callable[[ModelRecipe, Shape], Classifier]]] = {
    "resnet18": ResNet18,
    "mobilenet_v2": MobileNetV2,
}


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
    if recipe.architecture != "file":
        return ARCHITECTURES[recipe.architecture](recipe, shape)
    if factory is None:
        raise ConfigError(f"the network is made by the file {recipe.path}, which is not at hand")
    return OwnNetwork(recipe, shape, factory)
