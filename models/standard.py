"""The calls of a network, written in one way, so that whoever reads them meets few kinds.

Functions become modules of torch.nn, means over space become pooling, arithmetic with a number becomes a
`Line`, and a module that is called twice becomes two.

    call_module                one module each
    ADD, MULTIPLY, JOIN,       of tensors
    MATMUL
    MOVES                      what only moves numbers: views, permutations, slices
    everything that is no tensor: sizes, which are known for an image of a given size
"""

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qmu_edge.models.follow import (
    ADD,
    JOIN,
    MATMUL,
    MULTIPLY,
    Followed,
    add_module,
    call_module,
    follow,
    module_of,
    stored,
    tensors_in,
    values,
)  # fmt: skip
from qmu_edge.models.layers import Line, StochasticDepth
from qmu_edge.models.tokens import written_out
from qmu_edge.models.transposed import written_as_convolution

Function = Any  # a function, or the name of a method of tensors
Arguments = tuple[Any, ...]
Keywords = Mapping[str, Any]
_SUBTRACT, _DIVIDE = operator.sub, operator.truediv
_SAME: Final[Mapping[Function, Function]] = {
    **dict.fromkeys((operator.iadd, torch.add, "add", "add_"), ADD),
    **dict.fromkeys((operator.imul, torch.mul, torch.multiply, "mul", "mul_"), MULTIPLY),
    **dict.fromkeys((operator.isub, torch.sub, torch.subtract, "sub", "sub_"), _SUBTRACT),
    **dict.fromkeys((operator.itruediv, torch.div, torch.divide, "div", "div_"), _DIVIDE),
    **dict.fromkeys((torch.concat, torch.concatenate), JOIN),
    **dict.fromkeys((operator.matmul, torch.bmm, "matmul", "bmm"), MATMUL),
    "view": "reshape",  # a network in training has its channels last in memory
}
_WINDOW: Final = ("kernel_size", "stride", "padding")
_FLATTEN: Final = (lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim), ("start_dim", "end_dim"))
# The module that computes a function, and the names of its arguments behind the first.
_MODULES: Final[Mapping[Function, tuple[Callable[..., nn.Module], tuple[str, ...]]]] = {
    **dict.fromkeys((F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"), (nn.ReLU, ())),
    F.relu6: (nn.ReLU6, ()),
    F.hardtanh: (nn.Hardtanh, ("min_val", "max_val")),
    F.leaky_relu: (nn.LeakyReLU, ("negative_slope",)),
    F.elu: (nn.ELU, ("alpha",)),
    F.hardsigmoid: (nn.Hardsigmoid, ()),
    F.hardswish: (nn.Hardswish, ()),
    F.silu: (nn.SiLU, ()),
    F.gelu: (nn.GELU, ("approximate",)),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"), (nn.Sigmoid, ())),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh", "tanh_"), (nn.Tanh, ())),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), (nn.Softmax, ("dim",))),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (nn.MaxPool2d, (*_WINDOW, "dilation", "ceil_mode"))),
    F.avg_pool2d: (nn.AvgPool2d, (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override")),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    F.interpolate: (nn.Upsample, ("size", "scale_factor", "mode")),
    **dict.fromkeys((F.channel_shuffle, torch.channel_shuffle), (nn.ChannelShuffle, ("groups",))),
    **dict.fromkeys((torch.flatten, "flatten"), _FLATTEN),
    F.dropout: (nn.Dropout, ("p",)),
    F.dropout2d: (nn.Dropout2d, ("p",)),
}
_IGNORED: Final = {"inplace", "training", "return_indices", "align_corners", "antialias", "_stacklevel"}
_MEANS: Final = (torch.mean, "mean")


def standard(network: nn.Module, example: Tensor, *, lines: bool = False) -> Followed:
    """The network with its calls written in one way; the network itself where they are already.

    Parameters keep their names. Of a module with weights that is called twice, the second one has the same
    weight, and a bias of its own; batch-norms are two.

    Args:
        network: Does not change.
        example: What it takes.
        lines: See `follow`.

    Raises:
        ConfigError: See `follow` and `values`.
    """
    graph = follow(network, lines=lines)
    seen = [values(network, graph, images) for images in (example, torch.cat([example, example[:1]]))]
    calls = Followed(fx.GraphModule(network, graph), graph, *seen)
    known = stored(graph)
    tensors = [n for n, value in calls.values.items() if tensors_in(value) and n not in known]
    changed = [_apart(calls.network), *(_in_one_way(calls, node) for node in tensors)]
    changed += [_whole_windows(calls, node) for node in graph.nodes]
    changed += [_transposed(calls, node) for node in [*graph.nodes]]
    changed += [written_out(calls, node) for node in [*graph.nodes]]
    if not any(changed):
        return calls._replace(network=network)
    graph.eliminate_dead_code()
    graph.lint()  # type: ignore[no-untyped-call]
    calls.network.recompile()
    calls.network.train(network.training)
    return calls._replace(values={n: calls.values[n] for n in graph.nodes})


def _in_one_way(calls: Followed, node: fx.Node) -> bool:
    """Replace a call by the one that is written for it; False where it is that one."""
    if node.op not in ("call_function", "call_method"):
        return False
    target = _SAME.get(node.target, node.target)
    given = calls.given(node.args), calls.given(node.kwargs)
    modules = _arithmetic(target, *given) or _written(target, *given)
    if not modules:
        if target is node.target or (node.kwargs and target is not JOIN):
            return False
        node.op = "call_method" if isinstance(target, str) else "call_function"
        node.target = target
        return True
    x: Any = next(a for a in node.all_input_nodes if tensors_in(calls.values[a]))
    for module in modules:
        before, x = x, call_module(calls.network, node, node.name, module, x)
        for found in (calls.values, calls.more):
            found[x] = found[node] if module is modules[-1] else module(found[before])
    node.replace_all_uses_with(x)
    calls.graph.erase_node(node)
    return True


def _arithmetic(target: Function, args: Arguments, kwargs: Keywords) -> list[nn.Module]:
    """Sums and products of a tensor and a number."""
    if target is operator.neg:
        return [Line(-1.0, 0.0)]
    numbers = [a for a in args if isinstance(a, int | float)]
    if len(numbers) != 1 or len(args) != 2 or kwargs:
        return []
    number, first = float(numbers[0]), isinstance(args[0], fx.Node)
    if target is ADD:
        return [Line(1.0, number)]
    if target is MULTIPLY:
        return [Line(number, 0.0)]
    if target is _SUBTRACT:
        return [Line(1.0, -number) if first else Line(-1.0, number)]
    return [Line(1.0 / number, 0.0)] if target is _DIVIDE and first and number else []


def _written(target: Function, args: Arguments, kwargs: Keywords) -> list[nn.Module]:
    """The modules that do what a function does, where its arguments are numbers."""
    if target in _MEANS:
        return _mean(args, kwargs)
    if target is F.pad:
        return _padding(args, kwargs)
    if getattr(target, "__name__", "") == "stochastic_depth":  # of torchvision, which may be missing
        given = {**dict(zip(("p", "mode"), args[1:], strict=False)), **kwargs}
        return [StochasticDepth(given["p"], given["mode"])]
    if target not in _MODULES:
        return []
    make, names = _MODULES[target]
    given = {**dict(zip(names, args[1:], strict=False)), **kwargs}
    kept = {k: v for k, v in given.items() if k not in {*_IGNORED, "input"} and v is not None}
    if _calls(tuple(kept.values())):
        return []
    try:
        return [make(**kept)]
    except TypeError:
        return []


def _calls(given: Any) -> list[fx.Node]:
    """The calls among arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg(given, found.append)
    return found


def _mean(args: Arguments, kwargs: Keywords) -> list[nn.Module]:
    given = {**dict(zip(("dim", "keepdim"), args[1:], strict=False)), **kwargs}
    dims: Any = given.get("dim", given.get("axis"))
    if not isinstance(dims, tuple | list) or _calls(dims) or sorted(d % 4 for d in dims) != [2, 3]:
        return []
    return [nn.AdaptiveAvgPool2d(1), *([] if given.get("keepdim") else [nn.Flatten()])]


def _padding(args: Arguments, kwargs: Keywords) -> list[nn.Module]:
    given = {**dict(zip(("pad", "mode", "value"), args[1:], strict=False)), **kwargs}
    pads: Any = given.get("pad")
    zero = given.get("mode", "constant") == "constant" and not given.get("value")
    sizes = isinstance(pads, tuple | list) and len(pads) == 4 and all(isinstance(p, int) for p in pads)
    return [nn.ZeroPad2d(tuple(pads))] if zero and sizes else []


def _whole_windows(calls: Followed, node: fx.Node) -> bool:
    """Replace pooling to a given size by windows of one size, where they fit; False where there is none."""
    module, size = module_of(calls.network, node), calls.values[node]
    if not isinstance(module, nn.AdaptiveAvgPool2d) or size.shape[2:] == (1, 1):
        return False
    before, behind = calls.values[node.all_input_nodes[0]].shape[2:], size.shape[2:]
    if any(a % b for a, b in zip(before, behind, strict=True)):
        return False
    window = tuple(a // b for a, b in zip(before, behind, strict=True))
    calls.network.set_submodule(str(node.target), nn.Identity() if window == (1, 1) else nn.AvgPool2d(window))
    return True


def _transposed(calls: Followed, node: fx.Node) -> bool:
    layer = module_of(calls.network, node)
    return isinstance(layer, nn.ConvTranspose2d) and written_as_convolution(calls, node, layer)


def _apart(network: Any) -> bool:
    """Give every call a module of its own."""
    known: dict[Any, str] = {}
    changed = False
    for node in network.graph.nodes:
        if node.op != "call_module":
            continue
        module = network.get_submodule(node.target)
        if id(module) not in known:
            known[id(module)] = node.target
            continue
        weight = None if hasattr(module, "running_mean") else getattr(module, "weight", None)
        changed, other = True, copy.deepcopy(module, {id(weight): weight})  # not to copy the weight
        node.target = add_module(network, node.target, other)
    return changed
