"""User-defined networks, whose body is built by a Python file.

The file defines `build(layers, shape)`, which returns a module of quantized layers, or of plain ones that get
quantizers here. It takes the quantized input, (n, c, h, w). Where it returns features (n, d, i, j), global
average pooling, quantization and the classifier follow; where it returns logits (n, k), it has a classifier
of its own. Normalisation and quantization of the input come before it in any case.
"""

import copy
import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from enum import Enum, auto
from itertools import chain
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.follow import Followed, line_of, lines_noted, module_of, tensors_in
from qmu_edge.models.kinds import is_plain, require_known, weighted
from qmu_edge.models.layers import AveragePool, Classifier, Factory, Layers, Normalize, Shape, initialise
from qmu_edge.models.of_brevitas import (
    is_of_brevitas,
    loaded,
    require_kept_steps,
    with_learned_steps,
)  # fmt: skip
from qmu_edge.models.plain import quantized
from qmu_edge.models.standard import standard
from qmu_edge.recipe import ModelRecipe

TRIED_SIDE: Final = 32  # side in pixels of the image that tells what a body gives, where no other is known

ROUNDING: Final = 1e-3  # of the largest logit


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
    """The network that a factory builds: a body, then averaging and a classifier, or one of its own.

    Attributes:
        body: From the quantized image to features (n, d, i, j), or to what the last layer takes.
        head: The last layer with weights.
        tail: What lies behind the last layer of a network with a classifier of its own; None otherwise.
        of_brevitas: Whether all of its quantizers are those that its file has given to Brevitas' layers.
    """

    tail: nn.Module | None

    def __init__(self, recipe: ModelRecipe, shape: Shape, factory: Factory) -> None:
        """Build the network of `recipe` for images and classes of `shape`.

        Raises:
            ConfigError: The factory fails, or its result maps images neither to features (n, d, i, j) nor to
                logits (n, k), or does what cannot be exported.
        """
        super().__init__(recipe, shape)
        self.factory = factory
        make = Layers(recipe)
        self.normalize = Normalize(shape)
        calls, features, kind = _body(factory, make, shape)
        self.of_brevitas = kind is Kind.BREVITAS
        self.input = nn.Identity() if self.of_brevitas else make.edge()
        if len(features) == 2:
            self.body, self.head, self.tail = _parts(calls)
        else:
            self.body, self.tail = calls.network, None
            self.pooled = make.edge()
            self.flatten = nn.Flatten()
            self.head = make.linear(features[1], shape.classes)
        if kind is Kind.OURS:
            initialise(list(self.modules()))
        elif self.tail is None:  # other layers keep what their file gave them
            initialise([self.head])

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of float images 0..1."""
        features = self.body(self.input(self.normalize(x)))
        if self.tail is not None:
            return self.tail(self.head(features))  # type: ignore[no-any-return]
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        logits: Tensor = self.head(self.flatten(pooled))
        return logits


def take_state(
    model: OwnNetwork, weights: Mapping[str, Tensor], names: Mapping[str, str], source: object
) -> nn.Module:
    """Give a network of Brevitas' layers the state of a checkpoint, in place; codes and steps are kept.

    Args:
        model: With `of_brevitas`.
        weights: The state by name.
        names: Parts of names that differ.
        source: What the checkpoint is called in messages.

    Returns:
        Brevitas' own network with this state, from float images 0..1 to logits, in evaluation mode.

    Raises:
        ConfigError: A tensor is left over on either side, the recipe cannot have a step, or the network gives
            features: its classifier is not in the checkpoint.
    """
    if model.tail is None:
        raise ConfigError(f"{source}: the network gives features and no logits: nothing has trained the rest")
    factory: Any = model.factory
    make = Layers(model.recipe)
    with redirect_stdout(sys.stderr):
        theirs, again = (loaded(factory(make, model.shape), weights, names, source) for _ in range(2))
    taken = OwnNetwork(model.recipe, model.shape, lambda layers, shape: again)
    model.load_state_dict(taken.state_dict())
    require_kept_steps(model, source)
    return nn.Sequential(Normalize(model.shape), theirs).eval()


class Kind(Enum):
    """What the layers are that a factory makes: `layers` has made them, Brevitas, or some are plain ones."""

    OURS = auto()
    BREVITAS = auto()
    PLAIN = auto()


def _body(factory: Factory, make: Layers, shape: Shape) -> tuple[Followed, tuple[int, ...], Kind]:
    """The module that the factory builds, the shape of what it gives, and what its layers were."""
    calls, given = checked(factory, make, shape)
    for node in calls.graph.nodes:
        if isinstance(pool := module_of(calls.network, node), nn.AvgPool2d):
            calls.network.set_submodule(str(node.target), AveragePool(pool))
    kind = Kind.OURS
    if is_of_brevitas(calls.network):
        kind, calls = Kind.BREVITAS, with_learned_steps(calls, make)
    if is_plain(calls.network):
        kind, calls = Kind.PLAIN, calls._replace(network=quantized(calls, make, whole=len(given) == 2))
    calls.network.train()
    return calls, given, kind


def checked(
    factory: Factory, make: Layers, shape: Shape, *, lines: bool = False
) -> tuple[Followed, tuple[int, ...]]:
    """The module that the factory builds, in evaluation mode, and the shape of what it gives.

    Args:
        factory: `build` of a model file.
        make: What the file makes layers with.
        shape: Of images and classes.
        lines: Name the line of the file that makes a call, which takes time.

    Raises:
        ConfigError: The factory fails, or its result maps images neither to features nor to logits, or does
            what cannot be exported.
    """
    name = make.recipe.path or make.recipe.architecture
    try:
        with redirect_stdout(sys.stderr), lines_noted(name) as made:
            body: object = factory(make, shape)
        if not isinstance(body, nn.Module):
            raise TypeError(f"build returned {type(body).__name__}, allowed is a torch.nn.Module")
        _require_whole(body)
        example = _example(shape)
        with torch.no_grad():
            given = _shape(body.eval()(example), shape.classes)
        calls = standard(body, example, lines=lines)
        require_known(calls, make.recipe.path, made)
        if len(given) == 2:
            _last(calls, make.recipe.path)
        return calls, given
    except ConfigError as error:
        text = str(error)  # which may begin with the line of the file
        raise ConfigError(text if text.startswith(f"{name}, line ") else f"{name}: {text}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(f"{name}: {type(error).__name__}: {error}") from error


def is_followed(factory: Factory, make: Layers, shape: Shape) -> bool:
    """Whether a network computes what the calls do that its `forward` was seen to make.

    Compared for two times images, in evaluation and in training; what is drawn is drawn alike.
    """
    with redirect_stdout(sys.stderr):
        body = factory(make, shape).eval()
        followed = copy.deepcopy(standard(body, _example(shape)).network)
        for module in followed.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        return all(
            _same(body.train(training), followed.train(training), _example(shape), seed)
            for training in (False, True)
            for seed in range(2)
        )


def _same(body: nn.Module, followed: nn.Module, example: Tensor, seed: int) -> bool:
    images = torch.rand(example.shape, generator=torch.Generator().manual_seed(seed))
    found = []
    for network in (body, followed):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(tensors_in(network(images.clone())))
    ((one,), (other,)) = found
    allowed = ROUNDING * float(one.nan_to_num().abs().max())
    return torch.allclose(one, other, rtol=ROUNDING, atol=allowed, equal_nan=True)


def _require_whole(network: nn.Module) -> None:
    """A network does what its modules and their numbers say, and nothing beside.

    Raises:
        TypeError: A module has hooks or parametrizations, which would be lost.
        ValueError: A number is missing, or not finite, or a variance below zero.
    """
    for name, module in network.named_modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations")
        if hooked:
            raise TypeError(f"{name or 'the network'} has hooks or parametrizations, which no file can hold")
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if "_quant." in name or (tensor.is_meta and torch.get_default_device().type == "meta"):
            continue  # steps of quantizers are set later, and at `init` no network has numbers
        if tensor.is_meta:
            raise ValueError(f"{name} lies on the device meta, where it has no values")
        if not bool(tensor.isfinite().all()) or (name.endswith("running_var") and bool((tensor < 0).any())):
            raise ValueError(f"{name} holds a value that is not finite, or a variance below zero")


def _example(shape: Shape) -> Float[Tensor, "2 c h w"]:
    side = shape.size or TRIED_SIDE
    return torch.zeros(2, shape.channels, side, side)


def _shape(features: object, classes: int) -> tuple[int, ...]:
    """The shape of what a body gives.

    Raises:
        TypeError: It is neither features nor logits.
    """
    found = (1, *features.shape[1:]) if isinstance(features, Tensor) else ()
    if len(found) == 4 or found == (1, classes):
        return found
    raise TypeError(
        f"the body returned {found or type(features).__name__}, allowed are features (n, d, i, j) "
        f"and logits (n, {classes})"
    )


def _last(calls: Followed, path: str | None) -> fx.Node:
    """The last layer with weights: all that lies behind it reads what it gives.

    Raises:
        ConfigError: There is none, or something behind it reads what lies before it, too.
    """
    layers = weighted(calls.network, calls.graph)
    if not layers:
        raise ConfigError("no layer with weights")
    last = layers[-1]
    nodes = list(calls.graph.nodes)
    place = nodes.index(last)
    before = set(nodes[:place])
    for node in nodes[place + 1 :]:
        if before & set(node.all_input_nodes):
            raise ConfigError(
                f"{line_of(node, path)}{node.name} reads what lies before {last.target}, the last layer with "
                "weights; allowed is what that gives alone"
            )
    return last


def _parts(calls: Followed) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What lies before the last layer with weights, that layer, and what lies behind it."""
    last = _last(calls, None)
    nodes = list(calls.graph.nodes)
    place = nodes.index(last)
    before, behind = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in nodes[:place]:
        known[node] = before.node_copy(node, known.__getitem__)
    before.output(known[last.all_input_nodes[0]])
    known = {last: behind.placeholder("x")}
    for node in nodes[place + 1 :]:
        known[node] = behind.node_copy(node, known.__getitem__)
    head = calls.network.get_submodule(str(last.target))
    return fx.GraphModule(calls.network, before), head, fx.GraphModule(calls.network, behind)
