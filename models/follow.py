"""The calls that a network's `forward` makes, in order, as torch.fx follows them without running the network.

`standard` writes them in one way, so that whoever reads them meets few kinds: functions become modules of
torch.nn, means over space become pooling, arithmetic with a number becomes a `Line`, and a module that is
called twice becomes two.

    call_module                one module each
    ADD, MULTIPLY, JOIN        of tensors
    MOVES                      what only moves numbers: views, permutations, slices
    everything that is no tensor: sizes, which are known for an image of a given size
"""

import copy
import operator
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import jaxtyping
import torch
import torch.nn.functional as F
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_module_registration_hook

from qmu_edge.errors import ConfigError
from qmu_edge.models.layers import Line, Single

Function = Any  # a function, or the name of a method of tensors
Arguments = tuple[Any, ...]
Keywords = Mapping[str, Any]
ADD: Final = operator.add
MULTIPLY: Final = operator.mul
JOIN: Final = torch.cat
MOVES: Final[frozenset[Function]] = frozenset(
    {
        "reshape", "permute", "transpose", "contiguous", "chunk", "split", "squeeze", "unsqueeze",
        torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split, torch.squeeze,
        torch.unsqueeze, operator.getitem,
    }
)  # fmt: skip
_SUBTRACT, _DIVIDE = operator.sub, operator.truediv
_SAME: Final[Mapping[Function, Function]] = {
    **dict.fromkeys((operator.iadd, torch.add, "add", "add_"), ADD),
    **dict.fromkeys((operator.imul, torch.mul, torch.multiply, "mul", "mul_"), MULTIPLY),
    **dict.fromkeys((operator.isub, torch.sub, torch.subtract, "sub", "sub_"), _SUBTRACT),
    **dict.fromkeys((operator.itruediv, torch.div, torch.divide, "div", "div_"), _DIVIDE),
    **dict.fromkeys((torch.concat, torch.concatenate), JOIN),
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
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (nn.MaxPool2d, (*_WINDOW, "dilation", "ceil_mode"))),
    F.avg_pool2d: (nn.AvgPool2d, (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override")),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    F.interpolate: (nn.Upsample, ("size", "scale_factor", "mode")),
    **dict.fromkeys((F.channel_shuffle, torch.channel_shuffle), (nn.ChannelShuffle, ("groups",))),
    **dict.fromkeys((torch.flatten, "flatten"), _FLATTEN),
    F.dropout: (nn.Dropout, ("p",)),
    F.dropout2d: (nn.Dropout2d, ("p",)),
}
_IGNORED: Final = {"inplace", "training", "return_indices", "align_corners", "antialias"}
_MEANS: Final = (torch.mean, "mean")
_PLACE: Final = re.compile(r'File "([^"]+)", line (\d+)')


class Followed(NamedTuple):
    """A network and the calls that it makes.

    Attributes:
        network: What makes them.
        graph: The calls, in order.
        values: What each gives for an example.
        more: What each gives for one image more.
    """

    network: Any
    graph: fx.Graph
    values: dict[fx.Node, Any]
    more: dict[fx.Node, Any]

    def given(self, x: Any) -> Any:
        """Arguments of a call, with numbers in the place of what works them out from sizes.

        What depends on how many images there are stays a call.
        """

        def value(node: fx.Node) -> Any:
            a, b = self.values[node], self.more[node]
            return a if isinstance(a, int | float | torch.Size) and a == b else node

        return fx.node.map_arg(x, value)


class _Tracer(fx.Tracer):
    """Enters modules that consist of others, but no layer of torch or Brevitas."""

    def __init__(self, *, lines: bool) -> None:
        super().__init__()
        self.record_stack_traces = lines

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` becomes a single node."""
        return isinstance(m, QuantLayerMixin | Single) or super().is_leaf_module(m, module_qualified_name)


def follow(network: nn.Module, *, lines: bool = False) -> fx.Graph:
    """The calls that the network's `forward` makes, in order.

    Args:
        network: Is not run.
        lines: Note for each call which line makes it, which takes time.

    Raises:
        ConfigError: What it calls depends on the values of its input.
    """
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # fx follows proxies, which have no shapes
    try:
        return _Tracer(lines=lines).trace(network)
    except (fx.proxy.TraceError, TypeError) as error:  # the latter from functions that take no proxy
        own = (str(Path(torch.__file__).parent), __file__, "<")  # the last of what has no file
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        raise ConfigError(f"{where}the network's forward cannot be followed: {error}") from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)


@contextmanager
def lines_noted(path: str) -> Iterator[dict[int, int]]:
    """The line of a file that makes a module, by the module's id, of all that are made in the context."""
    found: dict[int, int] = {}

    def registered(_: nn.Module, __: str, module: nn.Module | None) -> None:
        for frame, line in traceback.walk_stack(None):
            if frame.f_code.co_filename == path:
                found[id(module)] = line
                return

    handle: Any = register_module_module_registration_hook(registered)
    try:
        yield found
    finally:
        handle.remove()


def line_of(node: fx.Node, path: str | None) -> str:
    """Where a file makes a call, "mine.py, line 7: "; empty where that is not known."""
    lines = [line for name, line in _PLACE.findall(node.stack_trace or "") if name == path]
    return f"{path}, line {lines[-1]}: " if lines else ""


def tensors_in(value: Any) -> list[Tensor]:
    """What a call gives: a tensor, one of Brevitas with its scale, or several."""
    if isinstance(value, Tensor | QuantTensor):
        return [value if isinstance(value, Tensor) else value.value]
    return [v for v in value if isinstance(v, Tensor)] if isinstance(value, tuple | list) else []


def module_of(network: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None for any other node."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def values(network: nn.Module, graph: fx.Graph, example: Tensor) -> dict[fx.Node, Any]:
    """What every call gives for an example, which may lie on the device "meta".

    Raises:
        ConfigError: A call fails; it is named.
    """
    found: dict[fx.Node, Any] = {}

    class Interpreter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                found[n] = super().run_node(n)
            except Exception as error:  # whatever a layer says about what it is given
                raise ConfigError(f"{n.target}: {type(error).__name__}: {error}") from error
            return found[n]

    with torch.no_grad():
        Interpreter(network, garbage_collect_values=False, graph=graph).run(example)
    return found


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
    tensors = [node for node, value in calls.values.items() if tensors_in(value)]
    changed = [_apart(calls.network), *(_in_one_way(calls, node) for node in tensors)]
    changed += [_whole_windows(calls, node) for node in graph.nodes]
    if not any(changed):
        return calls._replace(network=network)
    graph.eliminate_dead_code()
    graph.lint()  # type: ignore[no-untyped-call]
    calls.network.recompile()
    calls.network.train(network.training)
    return calls._replace(values={n: calls.values[n] for n in graph.nodes})


def add_module(network: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add a module to a graph under a new name that begins with `name`."""
    number = 1
    while _has(network, taken := f"{name}_{number}" if number > 1 else name):
        number += 1
    network.add_submodule(taken, module)
    return taken


def _has(network: nn.Module, name: str) -> bool:
    """Whether there is a module of this name; looking through all names for each call would be quadratic."""
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True


def call_module(network: fx.GraphModule, before: fx.Node, name: str, module: nn.Module, x: Any) -> fx.Node:
    """Insert a call of a new module before a node, made where that node is."""
    with network.graph.inserting_before(before):
        node = network.graph.call_module(add_module(network, name, module), (x,))
    node.stack_trace = before.stack_trace
    return node


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
        for values in (calls.values, calls.more):
            values[x] = values[node] if module is modules[-1] else module(values[before])
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
