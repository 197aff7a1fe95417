"""The calls that a network's `forward` makes, in order, as torch.fx follows them without running it."""

import operator
import re
import traceback
from collections.abc import Iterator
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
from qmu_edge.models.layers import Single

Function = Any  # a function, or the name of a method of tensors
ADD: Final = operator.add
MULTIPLY: Final = operator.mul
JOIN: Final = torch.cat
MATMUL: Final = torch.matmul
MOVES: Final[frozenset[Function]] = frozenset(
    {
        "reshape", "permute", "transpose", "contiguous", "chunk", "split", "squeeze", "unsqueeze",
        torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split, torch.squeeze,
        torch.unsqueeze, operator.getitem,
    }
)  # fmt: skip
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

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Attention of torch asks for values of its input, so it is written out here."""
        if isinstance(m, nn.MultiheadAttention):
            return _attended(m, *args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` becomes a single node."""
        return isinstance(m, QuantLayerMixin | Single) or super().is_leaf_module(m, module_qualified_name)


def _attended(m: Any, query: Any, key: Any, value: Any, **kwargs: Any) -> tuple[Any, None]:
    """What `nn.MultiheadAttention` gives for tokens (n, t, d) that look at each other.

    Raises:
        TypeError: It does something else.
    """
    masked = any(kwargs.get(name) is not None for name in ("key_padding_mask", "attn_mask"))
    if query is not key or key is not value or masked or kwargs.get("is_causal"):
        raise TypeError("MultiheadAttention of several tensors, or with a mask; allowed is x, x, x")
    if not m.batch_first or m.in_proj_weight is None or m.bias_k is not None or m.add_zero_attn:
        raise TypeError("MultiheadAttention with other options than batch_first, bias and dropout")
    n, t, d = query.shape[0], query.shape[1], m.embed_dim
    joined = F.linear(query, m.in_proj_weight, m.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (joined[i].reshape(n, t, m.num_heads, d // m.num_heads).transpose(1, 2) for i in range(3))
    shares = F.softmax(torch.matmul(q, k.transpose(-2, -1)) * (d // m.num_heads) ** -0.5, -1)
    shares = F.dropout(shares, m.dropout, False) if m.dropout else shares
    return m.out_proj(torch.matmul(shares, v).transpose(1, 2).reshape(n, t, d)), None


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


def stored(graph: fx.Graph) -> set[fx.Node]:
    """The parameters and buffers in a graph, and what functions compute of them alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        of_those = inputs and node.op in ("call_function", "call_method") and found.issuperset(inputs)
        if node.op == "get_attr" or of_those:
            found.add(node)
    return found


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


def add_module(network: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add a module to a graph under a new name that begins with `name`."""
    number = 1
    while _has(network, taken := f"{name}_{number}" if number > 1 else name):
        number += 1
    network.add_submodule(taken, module)
    return taken


def _has(network: nn.Module, name: str) -> bool:
    """Whether the name is taken; looking through all names for each call would be quadratic."""
    owner, _, last = name.rpartition(".")
    try:
        return hasattr(network.get_submodule(owner), last)
    except AttributeError:
        return False


def call_module(network: fx.GraphModule, before: fx.Node, name: str, module: nn.Module, x: Any) -> fx.Node:
    """Insert a call of a new module before a node, made where that node is."""
    with network.graph.inserting_before(before):
        node = network.graph.call_module(add_module(network, name, module), (x,))
    node.stack_trace = before.stack_trace
    return node


def insert(calls: Followed, before: fx.Node, target: Any, *args: Any, name: str = "") -> fx.Node:
    """Insert a call of a module, which gets a name, of a function or of a method."""
    if isinstance(target, nn.Module):
        node = call_module(calls.network, before, name or before.name, target, *args)
    else:
        with calls.graph.inserting_before(before):
            make = calls.graph.call_method if isinstance(target, str) else calls.graph.call_function
            node = make(target, args)
        node.stack_trace = before.stack_trace
    for values in (calls.values, calls.more):
        x, *rest = fx.node.map_arg(args, values.__getitem__)
        values[node] = getattr(x, target)(*rest) if isinstance(target, str) else target(x, *rest)
    return node
