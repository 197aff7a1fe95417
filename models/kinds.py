"""Kinds of calls in a graph: what a call does to tensors on grids.

WEIGHTED    multiply by weights: integer kernels add up codes x codes
NORMS       batch-norms, behind a layer or of their own
FUNCTIONS   of each number alone; of a quantized tensor they are tables of codes
GRIDS       put what they give on a grid
MEANS       over space, or over windows
ALONG       of all numbers along the last axis: computed in floats, between grids
MOVING      give numbers of their input, in another place
PASSING     pass on what they get
"""

import operator
from collections.abc import Mapping
from typing import Any, Final

import brevitas.nn as qnn
import torch.nn.functional as F
from brevitas.nn.mixin import QuantWeightMixin
from torch import fx, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.deployed import Grid
from qmu_edge.models.follow import (
    ADD,
    JOIN,
    MATMUL,
    MOVES,
    MULTIPLY,
    Followed,
    line_of,
    module_of,
    stored,
    tensors_in,
)  # fmt: skip
from qmu_edge.models.layers import AveragePool, Line, Normalize, StochasticDepth
from qmu_edge.models.of_brevitas import quantizer_problem
from qmu_edge.models.parts import part_of
from qmu_edge.models.tokens import Softmax

WEIGHTED: Final = (nn.Conv2d, nn.Linear)
NORMS: Final = (nn.BatchNorm2d, nn.BatchNorm1d)
RECTIFIERS: Final = (nn.ReLU, nn.ReLU6)
FUNCTIONS: Final = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.GELU,
    nn.Sigmoid, nn.Tanh, Line,
)  # fmt: skip
NOT_NEGATIVE: Final = (nn.ReLU, nn.ReLU6, nn.Hardsigmoid, nn.Sigmoid)
GRIDS: Final = (qnn.QuantReLU, qnn.QuantIdentity)
MEANS: Final = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, AveragePool)
MOVING: Final = (
    nn.MaxPool2d, nn.Flatten, nn.ZeroPad2d, nn.Upsample, nn.ChannelShuffle, nn.PixelShuffle, nn.Unflatten,
)  # fmt: skip
PASSING: Final = (nn.Dropout, nn.Dropout2d, nn.Identity, StochasticDepth)
ALONG: Final = (nn.LayerNorm, Softmax)
TOGETHER: Final = (ADD, MULTIPLY, JOIN, MATMUL)


def is_plain(network: nn.Module) -> bool:
    """Whether a network has a layer without a quantizer of its weight."""
    return any(isinstance(m, WEIGHTED) and not isinstance(m, QuantWeightMixin) for m in network.modules())


def quantizes(module: nn.Module | None) -> bool:
    """Whether a module puts its output on a grid."""
    return bool(getattr(getattr(module, "act_quant", None), "is_quant_enabled", False))


def moves(network: nn.Module, node: fx.Node) -> bool:
    """Whether a call only moves numbers, or passes them on."""
    called = node.op != "get_attr" and node.target in MOVES
    return called or isinstance(module_of(network, node), (*MOVING, *PASSING))


def averages(network: nn.Module, node: fx.Node) -> bool:
    """Whether a call is a mean."""
    return isinstance(module_of(network, node), MEANS) or node.target is F.adaptive_avg_pool2d


def leads_out(network: nn.Module, node: fx.Node) -> bool:
    """Whether what a call gives is what the network gives."""
    return all(u.op == "output" or (moves(network, u) and leads_out(network, u)) for u in node.users)


def weighted(network: nn.Module, graph: fx.Graph) -> list[fx.Node]:
    """The calls of layers with weights, in order."""
    return [node for node in graph.nodes if isinstance(module_of(network, node), WEIGHTED)]


def norms_behind(network: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """The batch-norm that alone reads a layer, by names."""
    return {
        str(node.target): str(reader.target)
        for node in weighted(network, graph)
        for reader in node.users
        if len(node.users) == 1 and isinstance(module_of(network, reader), NORMS)
    }


def shift_of(proxy: Any) -> int | None:
    """The smallest code of a quantizer of activations that lies aside; None of any other."""
    fused = getattr(proxy, "fused_activation_quant_proxy", None)
    low = None if fused is None else getattr(fused.tensor_quant.int_quant, "shifted", None)
    return None if low is None else int(low)


def quantizer_grids(network: nn.Module) -> dict[str, Grid]:
    """The grid of every quantizer of activations, by its name."""
    found = {}
    for name, module in network.named_modules():
        if quantizes(module):
            proxy: Any = module.act_quant
            bits = proxy.bit_width()
            low = -(1 << int(bits) - 1) if proxy.is_signed else 0
            if (shifted := shift_of(proxy)) is not None:
                low = shifted
            found[name] = Grid(float(proxy.scale().detach()), int(bits), low)
    return found


def grids(network: nn.Module, graph: fx.Graph, known: Mapping[str, Grid]) -> dict[fx.Node, Grid | None]:
    """The grid on which the values of each call lie; `known` is from `quantizer_grids`."""
    found: dict[fx.Node, Grid | None] = {}
    for node in graph.nodes:
        found[node] = known.get(str(node.target)) if node.op == "call_module" else None
        if found[node] is None and moves(network, node):
            found[node] = found[node.all_input_nodes[0]]
    return found


def require_known(calls: Followed, path: str | None, made: Mapping[int, int]) -> None:
    """Refuse a call that has no place in an exported file.

    Args:
        calls: From `standard`.
        path: The user's file, whose line is named where it is known.
        made: The line that made a module, by the module's id.

    Raises:
        ConfigError: There is one.
    """
    known = stored(calls.graph)
    for node in calls.graph.nodes:
        if node.op in ("placeholder", "output") or node in known or not tensors_in(calls.values[node]):
            continue
        module = module_of(calls.network, node)
        if problem := _problem(calls, node) or _mixed(calls, node):
            what = type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))
            name = node.target if module else node.name
            where = line_of(node, path) or (
                f"{path}, line {made[id(module)]}: " if id(module) in made else ""
            )
            raise ConfigError(f"{where}{name}: {what} {problem}")


def _mixed(calls: Followed, node: fx.Node) -> str:
    """Why a call does not give something of its own for each image; empty where it does."""
    images = next(iter(calls.graph.nodes))
    n, m = (len(values[images]) for values in (calls.values, calls.more))
    for a, b in zip(tensors_in(calls.values[node]), tensors_in(calls.more[node]), strict=False):
        if a.shape[1:] != b.shape[1:] or len(a) * m != len(b) * n:
            return f"gives {tuple(a.shape)} for {n} images and {tuple(b.shape)} for {m}: it mixes them"
    return ""


def _problem(calls: Followed, node: fx.Node) -> str:
    """Why a call has no place in an exported file; empty where it has one."""
    network, found = calls.network, calls.values
    module = module_of(network, node)
    if module is None:
        return _function_problem(calls, node)
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"pads with {module.padding_mode!r}; allowed is 'zeros'"
    if isinstance(module, nn.Linear) and found[node].dim() != 2:
        return f"of {found[node].dim()} dimensions; allowed are 2: flatten what enters it"
    if isinstance(module, nn.AdaptiveAvgPool2d) and found[node].shape[2:] != (1, 1):
        return f"gives {tuple(found[node].shape[2:])} pixels; allowed are 1, and divisors of its input"
    if isinstance(module, nn.AvgPool2d) and (module.ceil_mode or not _counts_padding(module)):
        return "leaves out what lies beyond the image; allowed are whole windows"
    if isinstance(module, nn.Upsample) and module.mode != "nearest":
        return f"of mode {module.mode!r}; allowed is 'nearest'"
    if isinstance(module, nn.Upsample) and any(
        a % b for a, b in zip(found[node].shape[2:], found[node.all_input_nodes[0]].shape[2:], strict=True)
    ):
        return "by fractions; allowed are whole numbers"
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and found[node].dim() != 4:
        return f"of {found[node].dim()} dimensions; allowed are 4"
    if isinstance(module, nn.BatchNorm1d) and not _behind_a_linear(network, node):
        return "that does not follow a linear layer; allowed is one that alone reads such a layer"
    if isinstance(module, nn.LayerNorm) and (len(module.normalized_shape) != 1 or module.weight is None):
        return "of several axes, or without a weight; allowed is the last axis, with weight"
    if isinstance(module, nn.Softmax):
        return "along another axis than the last one; allowed is the last"
    kinds = (*WEIGHTED, *NORMS, *FUNCTIONS, *MEANS, *ALONG, *MOVING, *PASSING, *GRIDS, Normalize)
    if isinstance(module, kinds):
        return quantizer_problem(module)
    return f"cannot be exported; allowed are {allowed()}"


def _function_problem(calls: Followed, node: fx.Node) -> str:
    """The same for a function or a method."""
    inputs = [tensors_in(calls.values[x]) for x in node.all_input_nodes]
    if node.op == "get_attr" or node.target not in (*TOGETHER, *MOVES):
        return f"cannot be exported; allowed are {allowed()}"
    if node.target in (ADD, MULTIPLY) and not all(inputs):
        return "takes a number that depends on how many images there are"
    if node.target is JOIN and not isinstance(next(iter((*node.args, *node.kwargs.values()))), tuple | list):
        return "joins pieces that are not named one by one"
    if node.target is JOIN and len({x.dim() for found in inputs for x in found}) != 1:
        return "joins tensors of several ranks"
    if node.target is operator.getitem:
        try:
            part_of(node, calls.values)
        except ValueError as error:
            return str(error)
    return ""


def _behind_a_linear(network: nn.Module, norm: fx.Node) -> bool:
    """Whether a batch-norm becomes a part of a linear layer."""
    (x,) = norm.all_input_nodes
    return isinstance(module_of(network, x), nn.Linear) and len(x.users) == 1


def _counts_padding(pool: nn.AvgPool2d) -> bool:
    return pool.count_include_pad or pool.padding in (0, (0, 0))


def allowed() -> str:
    """Names of what a network may consist of."""
    kinds = (*WEIGHTED, *NORMS, *FUNCTIONS, *MEANS, *ALONG, *MOVING, *PASSING)
    names = {kind.__name__ for kind in kinds} - {"Line", "AveragePool"}
    return f"{', '.join(sorted(names))}, sums, products, joined tensors, and what moves numbers"
