"""Transposed convolutions, written as convolutions of pixels that lie apart.

No runtime has an integer kernel of a transposed convolution. It is a convolution of the image with zeros
between its pixels, by the weight turned around; zeros are codes like others, so that integer kernels do.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, fx, nn

from qmu_edge.models.follow import Followed, insert


def turned(weight: Float[Tensor, "i o a b"], groups: int) -> Float[Tensor, "p q a b"]:
    """The weight of the convolution that a transposed one is: inputs and outputs change places.

    Args:
        weight: Of `nn.ConvTranspose2d`: (inputs, outputs / groups, a, b).
        groups: Divides the inputs.

    Returns:
        (outputs, inputs / groups, a, b), turned by half a circle.

    >>> import torch
    >>> turned(torch.arange(4.0).view(1, 1, 2, 2), 1).flatten().tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    apart: Tensor = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return apart.flatten(0, 1).flip(2, 3)


def as_kept(weight: Tensor, layer: nn.Module) -> Tensor:
    """The weight of a transposed convolution as the layer that stands for it has it; any other as it is."""
    if not isinstance(layer, nn.Conv2d) or not getattr(layer, "was_transposed", False):
        return weight
    form = (layer.in_channels, layer.out_channels // layer.groups, *layer.kernel_size)
    return turned(weight, layer.groups) if weight.shape == form else weight


def written_as_convolution(calls: Followed, node: fx.Node, layer: nn.ConvTranspose2d) -> bool:
    """Replace a transposed convolution; False where a side of the image would have to be cut off."""
    (kernel, stride, dilation), (padding, more) = (
        (layer.kernel_size, layer.stride, layer.dilation), (layer.padding, layer.output_padding),
    )  # fmt: skip
    if isinstance(padding, str) or len(node.all_input_nodes) != 1 or len(node.args) + len(node.kwargs) != 1:
        return False
    first = [d * (k - 1) - p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    last = [f + m - (s - 1) for f, m, s in zip(first, more, stride, strict=True)]
    if min(*first, *last) < 0:
        return False
    (x,) = node.all_input_nodes
    apart = _apart(calls, node, x, stride)
    padded = insert(calls, node, nn.ZeroPad2d((first[1], last[1], first[0], last[0])), apart)
    form: Any = {"kernel_size": kernel, "dilation": dilation, "groups": layer.groups}
    bias = layer.bias is not None
    made: Any = nn.Conv2d(layer.in_channels, layer.out_channels, bias=bias, device="meta", **form)
    made.weight = nn.Parameter(turned(layer.weight.detach(), layer.groups))
    made.was_transposed = True
    made.bias = layer.bias
    calls.network.set_submodule(str(node.target), made)
    node.args, node.kwargs = (padded,), {}
    return True


def _apart(calls: Followed, node: fx.Node, x: fx.Node, stride: tuple[int, ...]) -> fx.Node:
    """Every pixel with zeros below it and on its right, so that it takes as much space as a stride."""
    _, c, h, w = calls.values[x].shape
    down, across = stride
    if down > 1:
        rows = insert(calls, node, "reshape", x, -1, c * h, 1, w)
        rows = insert(calls, node, nn.ZeroPad2d((0, 0, 0, down - 1)), rows)
        x = insert(calls, node, "reshape", rows, -1, c, h * down, w)
    if across > 1:
        columns = insert(calls, node, "reshape", x, -1, c * h * down, w, 1)
        columns = insert(calls, node, nn.ZeroPad2d((0, across - 1, 0, 0)), columns)
        x = insert(calls, node, "reshape", columns, -1, c, h * down, w * across)
    return x
