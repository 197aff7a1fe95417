"""Which part of a tensor an index takes: a slice, or one of the pieces that `chunk` and `split` cut."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx

Places = dict[int, tuple[int, int, int]]  # start, end and step of each axis of which not all is taken
_ALLOWED: Final = "takes a part that cannot be exported; allowed are slices behind the first axis"


def part_of(call: fx.Node, found: Mapping[fx.Node, Any]) -> Places:
    """Where in a tensor the part lies that a call of `operator.getitem` takes.

    Args:
        call: Of what it takes a part is a tensor, or the pieces of one.
        found: What each call gives, see `qmu_edge.models.follow.values`.

    Raises:
        ValueError: No file can have it: it takes away from the images, an axis, or several pieces.
    """
    x: Any = call.args[0]
    index = fx.node.map_arg(call.args[1], found.__getitem__)
    if isinstance(found[x], Tensor):
        # A whole first axis is one that the network leaves alone, and not one of as many images as are tried.
        first = call.args[1][0] if isinstance(call.args[1], tuple) else call.args[1]
        if first != slice(None) and first is not Ellipsis:
            raise ValueError(_ALLOWED)
        return _slices(found[x], index)
    return _piece(x, index, found)


def _slices(whole: Tensor, index: Any) -> Places:
    given = list(index) if isinstance(index, tuple) else [index]
    for place in [place for place, one in enumerate(given) if one is Ellipsis]:
        given[place : place + 1] = [slice(None)] * (whole.dim() - len(given) + 1)
    if not all(isinstance(one, slice) for one in given):
        raise ValueError(_ALLOWED)
    sizes = zip(given, whole.shape, strict=False)
    places = {axis: one.indices(size) for axis, (one, size) in enumerate(sizes)}
    places = {axis: place for axis, place in places.items() if place != (0, whole.shape[axis], 1)}
    if 0 in places:
        raise ValueError(_ALLOWED)
    return places


def _piece(cut: fx.Node, index: Any, found: Mapping[fx.Node, Any]) -> Places:
    if cut.target not in ("chunk", torch.chunk, "split", torch.split) or not isinstance(index, int):
        raise ValueError("takes several pieces; allowed is one, by its number")
    pieces, whole = found[cut], found[cut.all_input_nodes[0]]
    given: Any = {**dict(zip(("how", "dim"), cut.args[1:], strict=False)), **cut.kwargs}
    axis = fx.node.map_arg(given.get("dim", 0), found.__getitem__) % whole.dim()
    if axis == 0:
        raise ValueError("cuts the images apart; allowed is any axis but the first")
    start = sum(piece.shape[axis] for piece in pieces[: index % len(pieces)])
    end = start + pieces[index].shape[axis]
    return {} if (start, end) == (0, whole.shape[axis]) else {axis: (start, end, 1)}
