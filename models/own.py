"""User-defined networks, whose body is built by a Python file.

The file defines `build(layers, shape)`, which returns a module from the quantized input, (n, c, h, w), to
features (n, d, i, j). The rest is the same for every network: normalisation and quantization of the input
before the body; global average pooling, quantization and the classifier after it.
"""

import importlib.abc
import importlib.util
import sys
from contextlib import redirect_stdout
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.layers import Classifier, Factory, Layers, Normalize, Shape, initialise
from qmu_edge.recipe import ModelRecipe

TRIED_SIDE: Final = 32  # side in pixels of the image that determines the number of features of a body


def factory_in(source: bytes, recipe: ModelRecipe) -> Factory:
    """Run a model file and return its `build`.

    Args:
        source: Bytes of the file after a check of their digest: exactly these are run.
        recipe: Names the file and its digest.

    Raises:
        ConfigError: The file raises an exception, or defines no function `build`.
    """
    name = f"qmu_edge_model_{recipe.sha256}"
    spec: Any = importlib.util.spec_from_loader(name, _Checked(source, str(recipe.path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with redirect_stdout(sys.stderr):  # stdout is reserved for the result of a command
            spec.loader.exec_module(module)
        build: Any = module.build
        if not callable(build):
            raise TypeError("build is not a function")
    except (Exception, SystemExit) as error:  # whatever the file raises
        del sys.modules[name]
        raise ConfigError(f"{recipe.path}: {type(error).__name__}: {error}") from error
    factory: Factory = build
    return factory


class _Checked(importlib.abc.ExecutionLoader):
    """Loads a module from given bytes: the file is not read again, and cached bytecode is not used."""

    def __init__(self, source: bytes, path: str) -> None:
        self.source, self.path = source, path

    def get_filename(self, fullname: str) -> str:
        """Path of the file, for tracebacks."""
        return self.path

    def get_source(self, fullname: str) -> str:
        """The bytes as text."""
        return importlib.util.decode_source(self.source)


class OwnNetwork(Classifier):
    """The body that a factory builds, between input quantization and classifier."""

    def __init__(self, recipe: ModelRecipe, shape: Shape, factory: Factory) -> None:
        """Build the network of `recipe` for images and classes of `shape`.

        Raises:
            ConfigError: The factory fails, or its result does not map images to features (n, d, i, j).
        """
        super().__init__(recipe, shape)
        self.factory = factory
        make = Layers(recipe)
        self.normalize = Normalize(shape)
        self.input = make.edge()
        self.body, features = _body(factory, make, shape)
        self.pooled = make.edge()
        self.flatten = nn.Flatten()
        self.head = make.linear(features, shape.classes)
        initialise(list(self.modules()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of float images 0..1."""
        features = self.body(self.input(self.normalize(x)))
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        logits: Tensor = self.head(self.flatten(pooled))
        return logits


def _body(factory: Factory, make: Layers, shape: Shape) -> tuple[nn.Module, int]:
    """The module that the factory builds, and its number of features d."""
    try:
        with redirect_stdout(sys.stderr):
            body: object = factory(make, shape)
        if not isinstance(body, nn.Module):
            raise TypeError(f"build returned {type(body).__name__}, allowed is a torch.nn.Module")
        with torch.no_grad():
            features: object = body.eval()(torch.zeros(1, shape.channels, TRIED_SIDE, TRIED_SIDE))
        body.train()
        if not isinstance(features, Tensor) or features.dim() != 4:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"the body returned {found}, allowed are features (n, d, i, j)")
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(f"{make.recipe.path}: {type(error).__name__}: {error}") from error
    return body, features.shape[1]
