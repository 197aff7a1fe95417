"""Calls of networks of tokens, (n, t, d), written in one way: attention, linear layers, learned embeddings.

    attention           products of tensors, and a `Softmax` of what they give, times a number
    linear layers       of rows (n t, d)
    pieces of stacks    slices, and a permutation of each
    a token for each    zeros in front of the others, and a sum
    image
    a mean of tokens    a mean over space

What is computed from parameters alone, such as a piece of an embedding, stays as it is.
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn

from qmu_edge.models.follow import (
    ADD,
    JOIN,
    MATMUL,
    MULTIPLY,
    Followed,
    call_module,
    insert,
    module_of,
    stored,
)  # fmt: skip
from qmu_edge.models.layers import Line, Single

_REPEATED: Final = ("expand", "repeat", torch.Tensor.expand)
_MEANS: Final = (torch.mean, "mean")


class Softmax(Single):
    """Softmax of scale * x along the last axis."""

    def __init__(self, scale: float = 1.0) -> None:
        """Store the number, which is positive."""
        super().__init__()
        self.scale = scale

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Shares that add up to 1."""
        return (x * self.scale).softmax(-1)


def written_out(calls: Followed, node: fx.Node) -> bool:
    """Replace a call by those that are written for it; False where there are none."""
    if node in stored(calls.graph):
        return False
    module = module_of(calls.network, node) if node.op == "call_module" else None
    if isinstance(module, nn.Linear):
        return calls.values[node].dim() > 2 and _rows(calls, node)
    if isinstance(module, nn.Softmax):
        return _softmax(calls, node, module)
    if node.target is F.scaled_dot_product_attention:
        return _attention(calls, node)
    if node.target in (F.linear, F.layer_norm):
        return _with_parameters(calls, node)
    if node.target is operator.getitem:
        return _piece(calls, node)
    if node.target is JOIN:
        return _first_token(calls, node)
    if node.target in (ADD, MULTIPLY):
        return _broadcast(calls, node)
    return node.target in _MEANS and _mean(calls, node)


def _replace(calls: Followed, node: fx.Node, made: fx.Node) -> bool:
    node.replace_all_uses_with(made)
    calls.graph.erase_node(node)
    return True


def _given(calls: Followed, node: fx.Node, *names: str) -> Mapping[str, Any]:
    """The arguments of a call by these names, sizes as numbers."""
    args, kwargs = calls.given(node.args), calls.given(node.kwargs)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _rows(calls: Followed, node: fx.Node) -> bool:
    """A linear layer of all rows, whichever image they are of."""
    (x,) = node.all_input_nodes
    *_, dims = axes = calls.values[x].shape
    flat = insert(calls, node, nn.Flatten(0, len(axes) - 2), x)
    shape = (-1, *axes[1:-1])
    layer = calls.network.get_submodule(str(node.target))
    node.args, node.kwargs = (flat,), {}
    readers = [*node.users]
    for values in (calls.values, calls.more):
        values[node] = layer(values[flat])
    made = insert(calls, node.next, nn.Unflatten(0, shape), node, name=node.name)
    for reader in readers:
        reader.replace_input_with(node, made)
    return bool(dims)


def _softmax(calls: Followed, node: fx.Node, module: nn.Softmax) -> bool:
    """With the number that what enters was multiplied by; what was added to it changes nothing."""
    (x,) = node.all_input_nodes
    rank = calls.values[x].dim()
    if module.dim is None or module.dim % rank != rank - 1:
        return False
    line = module_of(calls.network, x) if x.op == "call_module" else None
    scale = 1.0
    if isinstance(line, Line) and line.slope > 0 and len(x.users) == 1:
        scale, (x,) = line.slope, x.all_input_nodes
    calls.network.set_submodule(str(node.target), Softmax(scale))
    node.args, node.kwargs = (x,), {}
    return True


def _attention(calls: Followed, node: fx.Node) -> bool:
    given = _given(calls, node, "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    if given.get("attn_mask") is not None or given.get("is_causal") or given.get("enable_gqa"):
        return False
    query, key, value = (given[name] for name in ("query", "key", "value"))
    scale = given.get("scale") or calls.values[query].shape[-1] ** -0.5
    turned = insert(calls, node, "transpose", key, -2, -1)
    shares = insert(calls, node, Softmax(scale), insert(calls, node, MATMUL, query, turned))
    if given.get("dropout_p"):
        shares = insert(calls, node, nn.Dropout(given["dropout_p"]), shares)
    return _replace(calls, node, insert(calls, node, MATMUL, shares, value))


def _with_parameters(calls: Followed, node: fx.Node) -> bool:
    """A function of parameters becomes the module that has them."""
    parts = ("x", "weight", "bias") if node.target is F.linear else ("x", "shape", "weight", "bias", "eps")
    given = _given(calls, node, *parts)
    names = {k: str(n.target) for k in ("weight", "bias") if (n := given.get(k)) is not None}
    x = given.get("x", given.get("input"))
    if any(given[k].op != "get_attr" for k in names) or x in stored(calls.graph) or "weight" not in names:
        return False
    kept = {k: _parameter(calls.network, name) for k, name in names.items()}
    made: Any
    if node.target is F.linear:
        outputs, inputs = kept["weight"].shape
        made = nn.Linear(inputs, outputs, bias="bias" in kept, device="meta")
    else:
        made = nn.LayerNorm(kept["weight"].shape, given.get("eps", 1e-5), bias="bias" in kept, device="meta")
    for name, parameter in kept.items():
        setattr(made, name, parameter)
    name = names["weight"].removesuffix("weight").rstrip("._") or node.name
    layer = call_module(calls.network, node, name, made, x)
    for values in (calls.values, calls.more):
        values[layer] = values[node]
    _replace(calls, node, layer)
    if isinstance(made, nn.Linear) and calls.values[layer].dim() > 2:
        _rows(calls, layer)
    return True


def _parameter(network: nn.Module, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(network.get_submodule(owner), last)


def _piece(calls: Followed, node: fx.Node) -> bool:
    """What lies at one place of an axis: a slice without that axis."""
    x, index = node.args[0], calls.given(node.args[1])
    if not isinstance(x, fx.Node):
        return False
    if x.target in ("unbind", torch.unbind) and isinstance(index, int):
        cut = _given(calls, x, "x", "dim")
        whole, axis = x.all_input_nodes[0], cut.get("dim", 0)
        return _at(calls, node, whole, axis % calls.values[whole].dim(), index)
    if not isinstance(calls.values[x], Tensor):
        return False
    if isinstance(index, int):
        return _at(calls, node, x, 0, index)
    places = [*_spelled_out(index, calls.values[x].dim())] if isinstance(index, tuple) else []
    numbers = [axis for axis, place in enumerate(places) if isinstance(place, int)]
    if len(numbers) != 1 or not numbers[0] or any(p is None for p in places):
        return False
    (axis,) = numbers
    places[axis] = _slice_at(places[axis], calls.values[x].shape[axis])
    part = insert(calls, node, operator.getitem, x, tuple(places))
    return _replace(calls, node, insert(calls, node, "squeeze", part, axis))


def _spelled_out(index: tuple[Any, ...], rank: int) -> Iterator[Any]:
    """A place for every axis."""
    for place in index:
        if place is Ellipsis:
            yield from [slice(None)] * (rank - len(index) + 1)
        else:
            yield place


def _slice_at(place: int, size: int) -> slice:
    return slice(place % size, place % size + 1)


def _at(calls: Followed, node: fx.Node, x: fx.Node, axis: int, place: int) -> bool:
    """One of several tensors that were stacked along an axis, perhaps one that a permutation put first."""
    order = [*range(calls.values[x].dim())]
    if x.target in ("permute", torch.permute):
        dims = calls.given(x.args[1:]) or (calls.given(x.kwargs)["dims"],)
        given = dims[0] if isinstance(dims[0], tuple | list) else dims
        order, x = [d % len(order) for d in given], x.all_input_nodes[0]
    at = order.pop(axis)
    if at == 0:
        return False
    places = (*[slice(None)] * at, _slice_at(place, calls.values[x].shape[at]))
    part = insert(calls, node, "squeeze", insert(calls, node, operator.getitem, x, places), at)
    rest = [d - (d > at) for d in order]
    if rest != sorted(rest):
        part = insert(calls, node, "permute", part, *rest)
    return _replace(calls, node, part)


def _first_token(calls: Followed, node: fx.Node) -> bool:
    """A learned token before (or behind) those of every image: zeros there, and a sum."""
    given = _given(calls, node, "tensors", "dim")
    pieces, axis = given["tensors"], given.get("dim", given.get("axis", 0))
    if not isinstance(pieces, tuple | list) or len(pieces) != 2 or calls.values[node].dim() != 3:
        return False
    tokens = [_repeated(calls, piece) for piece in pieces]
    if axis % 3 != 1 or sum(token is None for token in tokens) != 1:
        return False
    first = tokens[0] is not None
    x, token = pieces[first], tokens[not first]
    sizes = [calls.values[piece].shape[1] for piece in pieces]
    around = nn.ZeroPad2d((0, 0, sizes[0], 0) if first else (0, 0, 0, sizes[1]))
    behind = (0, 0, 0, sizes[1]) if first else (0, 0, sizes[0], 0)
    padded = insert(calls, node, F.pad, token, behind)
    return _replace(calls, node, insert(calls, node, ADD, insert(calls, node, around, x), padded))


def _repeated(calls: Followed, node: Any) -> fx.Node | None:
    """The stored tensor that a call repeats for every image; None where it does something else."""
    if not isinstance(node, fx.Node) or node.target not in _REPEATED or node.all_input_nodes == []:
        return None
    x = node.all_input_nodes[0]
    known = x in stored(calls.graph) and calls.values[x].shape[0] == 1
    same = known and calls.values[x].shape[1:] == calls.values[node].shape[1:]
    return x if same and calls.values[x].dim() == calls.values[node].dim() else None


def _broadcast(calls: Followed, node: fx.Node) -> bool:
    """Sums and products with a stored tensor, which need not be repeated."""
    changed = False
    for x in node.all_input_nodes:
        if (token := _repeated(calls, x)) is not None:
            node.replace_input_with(x, token)
            changed = True
    return changed


def _mean(calls: Followed, node: fx.Node) -> bool:
    """A mean of tokens, as one over a space of one column."""
    given = _given(calls, node, "x", "dim", "keepdim")
    dims = given.get("dim", given.get("axis"))
    dims = [dims] if isinstance(dims, int) else dims
    (x, *_) = node.all_input_nodes
    shape = calls.values[x].shape
    if len(shape) != 3 or not isinstance(dims, list | tuple) or [d % 3 for d in dims] != [1]:
        return False
    turned = insert(calls, node, "transpose", x, 1, 2)
    column = insert(calls, node, nn.Unflatten(2, (shape[1], 1)), turned)
    mean = insert(calls, node, nn.AdaptiveAvgPool2d(1), column)
    made = insert(calls, node, nn.Flatten(), mean)
    if given.get("keepdim"):
        made = insert(calls, node, "unsqueeze", made, 1)
    return _replace(calls, node, made)
