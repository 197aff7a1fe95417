"""Kinds of calls in a graph: what a call does to tensors on grids.

WEIGHTED    multiply by weights: integer kernels add up codes x codes
NORMS       batch-norms, behind a layer or of their own
FUNCTIONS   of each number alone; of a quantized tensor they are tables of codes
MEANS       over space, or over windows
MOVING      give numbers of their input, in another place
PASSING     pass on what they get
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch.nn.functional as F
from brevitas.nn.mixin import QuantWeightMixin
from torch import Tensor, fx, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.deployed import Affine, Grid, Table
from qmu_edge.models.follow import ADD, JOIN, MOVES, MULTIPLY, line_of, module_of
from qmu_edge.models.layers import AveragePool, Line, Normalize

WEIGHTED: Final = (nn.Conv2d, nn.Linear)
NORMS: Final = (nn.BatchNorm2d, nn.BatchNorm1d)
RECTIFIERS: Final = (nn.ReLU, nn.ReLU6)
FUNCTIONS: Final = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.GELU,
    nn.Sigmoid, nn.Tanh, Line,
)  # fmt: skip
NOT_NEGATIVE: Final = (nn.ReLU, nn.ReLU6, nn.Hardsigmoid, nn.Sigmoid)
MEANS: Final = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, AveragePool)
MOVING: Final = (
    nn.MaxPool2d, nn.Flatten, nn.ZeroPad2d, nn.Upsample, nn.ChannelShuffle, nn.PixelShuffle, nn.Unflatten,
)  # fmt: skip
PASSING: Final = (nn.Dropout, nn.Dropout2d, nn.Identity)
TOGETHER: Final = (ADD, MULTIPLY, JOIN)


def is_plain(network: nn.Module) -> bool:
    """Whether a network has a layer without a quantizer of its weight."""
    return any(isinstance(m, WEIGHTED) and not isinstance(m, QuantWeightMixin) for m in network.modules())


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or several."""
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and isinstance(value[0], Tensor))


def quantizes(module: nn.Module | None) -> bool:
    """Whether a module puts its output on a grid."""
    return bool(getattr(getattr(module, "act_quant", None), "is_quant_enabled", False))


def moves(network: nn.Module, node: fx.Node) -> bool:
    """Whether a call only moves numbers, or passes them on."""
    return isinstance(module_of(network, node), (*MOVING, *PASSING)) or node.target in MOVES


def averages(network: nn.Module, node: fx.Node) -> bool:
    """Whether a call is a mean."""
    return isinstance(module_of(network, node), MEANS) or node.target is F.adaptive_avg_pool2d


def leads_out(network: nn.Module, node: fx.Node) -> bool:
    """Whether what a call gives is what the network gives."""
    return all(u.op == "output" or (moves(network, u) and leads_out(network, u)) for u in node.users)


def last_weighted(network: nn.Module, graph: fx.Graph) -> fx.Node | None:
    """The call of the last layer with weights."""
    found = [node for node in graph.nodes if isinstance(module_of(network, node), WEIGHTED)]
    return found[-1] if found else None


def norms_behind(network: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """The batch-norm that alone reads a layer, by names."""
    return {
        str(node.target): str(reader.target)
        for node in graph.nodes
        if isinstance(module_of(network, node), WEIGHTED)
        for reader in node.users
        if len(node.users) == 1 and isinstance(module_of(network, reader), NORMS)
    }


def quantizer_grids(network: nn.Module) -> dict[str, Grid]:
    """The grid of every quantizer of activations, by its name."""
    found = {}
    for name, module in network.named_modules():
        if quantizes(module):
            proxy: Any = module.act_quant
            bits = int(proxy.bit_width())
            low = -(1 << bits - 1) if proxy.is_signed else 0
            found[name] = Grid(float(proxy.scale().detach()), bits, low)
    return found


def grids(network: nn.Module, graph: fx.Graph, known: Mapping[str, Grid]) -> dict[fx.Node, Grid | None]:
    """The grid on which the values of each call lie; `known` is from `quantizer_grids`."""
    found: dict[fx.Node, Grid | None] = {}
    for node in graph.nodes:
        found[node] = known.get(str(node.target)) if node.op == "call_module" else None
        if found[node] is None and moves(network, node):
            found[node] = found[node.all_input_nodes[0]]
    return found


def require_known(
    network: nn.Module, graph: fx.Graph, found: dict[fx.Node, Any], path: str | None, made: Mapping[int, int]
) -> None:
    """Refuse a call that has no place in an exported file.

    Args:
        network: From `standard`.
        graph: Its calls.
        found: What each gives.
        path: The user's file, whose line is named where it is known.
        made: The line that made a module, by the module's id.

    Raises:
        ConfigError: There is one.
    """
    for node in graph.nodes:
        if node.op == "placeholder" or node.op == "output" or not is_tensor(found[node]):
            continue
        module = module_of(network, node)
        if problem := _problem(network, node, found):
            what = type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))
            name = node.target if module else node.name
            where = line_of(node, path) or (
                f"{path}, line {made[id(module)]}: " if id(module) in made else ""
            )
            raise ConfigError(f"{where}{name}: {what} {problem}")


def _problem(network: nn.Module, node: fx.Node, found: dict[fx.Node, Any]) -> str:
    """Why a call has no place in an exported file; empty where it has one."""
    module = module_of(network, node)
    if module is None:
        if node.op == "get_attr" or node.target not in (*TOGETHER, *MOVES, F.adaptive_avg_pool2d):
            return f"cannot be exported; allowed are {allowed()}"
        shapes = {x: found[x].shape for x in node.all_input_nodes if isinstance(found[x], Tensor)}
        if node.target is JOIN and (len(set(map(len, shapes.values()))) != 1):
            return "joins tensors of several ranks"
        return ""
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
    own = quantizes(module) or hasattr(module, "act_quant")
    kinds = (*WEIGHTED, *NORMS, *FUNCTIONS, *MEANS, *MOVING, *PASSING, Normalize, Affine, Table)
    if own or isinstance(module, kinds):
        return ""
    return f"cannot be exported; allowed are {allowed()}"


def _behind_a_linear(network: nn.Module, norm: fx.Node) -> bool:
    """Whether a batch-norm becomes a part of a linear layer."""
    (x,) = norm.all_input_nodes
    return isinstance(module_of(network, x), nn.Linear) and len(x.users) == 1


def _counts_padding(pool: nn.AvgPool2d) -> bool:
    return pool.count_include_pad or pool.padding in (0, (0, 0))


def allowed() -> str:
    """Names of what a network may consist of."""
    kinds: Iterator[type[nn.Module]] = iter((*WEIGHTED, *NORMS, *FUNCTIONS, *MEANS, *MOVING, *PASSING))
    names = {kind.__name__ for kind in kinds} - {"Line", "AveragePool"}
    return f"{', '.join(sorted(names))}, sums, products, joined tensors, and what moves numbers"
