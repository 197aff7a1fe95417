"""What integer kernels compute in the place of what they do not have, as a deploy form has it.

a batch-norm of a quantized tensor      a convolution whose codes are all one, and an `Affine`
average pooling                         the same, with a window
a mean that gives the logits            the same, with a window that is the whole image
functions between two grids             a table of codes
layer-norm, softmax                     exact sums, and what IEEE 754 rounds alike
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import fx, nn

from qmu_edge.models.deployed import Grid, NormOfCodes, SharesOfCodes, Table
from qmu_edge.models.follow import follow, module_of, values
from qmu_edge.models.kinds import ALONG, FUNCTIONS, NORMS, grids, leads_out, quantizes
from qmu_edge.models.layers import AveragePool, Classifier
from qmu_edge.models.quant_layers import QuantConv2d
from qmu_edge.models.quantizers.presets import LearnedStepWeight

BITS_OF_ONES: Final = 4


def alone(model: nn.Module, graph: fx.Graph, known: Mapping[fx.Node, Grid | None]) -> list[str]:
    """Names of batch-norms of quantized tensors, which no layer precedes."""
    return [
        str(node.target)
        for node in graph.nodes
        if isinstance(module_of(model, node), NORMS) and known[node.all_input_nodes[0]] is not None
    ]


def express(model: Classifier, steps: Mapping[str, Grid], size: int) -> None:
    """Write batch-norms of their own, pooling by averages and functions as integer kernels compute them."""
    graph = follow(model)
    known = grids(model, graph, steps)
    device = next(model.parameters()).device
    example = torch.zeros(1, model.shape.channels, size, size, device=device)
    along = [node for node in graph.nodes if isinstance(module_of(model, node), ALONG)]
    windows = [node for node in graph.nodes if _is_window(model, node) and known[node.all_input_nodes[0]]]
    sizes = values(model, graph, example) if windows or along else {}
    for name in alone(model, graph, known):
        norm: Any = model.get_submodule(name)
        model.set_submodule(name, nn.Sequential(_ones(norm.num_features).to(device), norm))
    for node in graph.nodes:
        module: Any = module_of(model, node)
        x = node.all_input_nodes[0] if node.all_input_nodes else None
        if x is None or known.get(x) is None:
            continue
        if node in windows and isinstance(module, AveragePool):
            channels, form = sizes[x].shape[1], (module.kernel, module.stride, module.padding)
            model.set_submodule(str(node.target), _ones(channels, *form, factor=module.factor).to(device))
        elif node in windows:
            _, channels, *places = sizes[x].shape
            ones = _ones(channels, tuple(places), factor=1.0 / (places[0] * places[1]))
            model.set_submodule(str(node.target), ones.to(device))
        elif isinstance(module, FUNCTIONS):
            _tabulate(model, node, known)
        elif node in along:
            _between_grids(model, node, known[x], sizes[x].shape[-1])


def _between_grids(model: nn.Module, node: fx.Node, grid: Grid | None, count: int) -> None:
    """Replace layer-norm or softmax of `count` codes."""
    module: Any = module_of(model, node)
    if grid is not None:
        made = NormOfCodes(module) if isinstance(module, nn.LayerNorm) else SharesOfCodes(grid, module, count)
        model.set_submodule(str(node.target), made)


def _is_window(model: Classifier, node: fx.Node) -> bool:
    """Whether a call is a mean that becomes a convolution."""
    module = module_of(model, node)
    return isinstance(module, AveragePool) or (
        isinstance(module, nn.AdaptiveAvgPool2d) and leads_out(model, node)
    )


def _ones(
    channels: int, kernel: Any = (1, 1), stride: Any = (1, 1), padding: Any = (0, 0), *, factor: float = 1.0
) -> QuantConv2d:
    """A convolution whose codes are all one on a step of `factor`: the sum of a window, for each channel."""
    made = QuantConv2d(
        channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False,
        weight_quant=LearnedStepWeight, weight_bit_width=BITS_OF_ONES,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.fill_(factor)
        made.weight_quant.tensor_quant.scaling_impl.step.fill_(factor)
    made.eval()
    return made


def _tabulate(model: nn.Module, node: fx.Node, known: Mapping[fx.Node, Grid | None]) -> None:
    """Replace functions between two grids by one table."""
    functions, names = nn.Sequential(), []
    (x,) = node.all_input_nodes
    while isinstance(function := module_of(model, node), FUNCTIONS) and len(node.users) == 1:
        functions.append(function)
        names.append(str(node.target))
        (node,) = node.users
    grid, quantizer = known[x], module_of(model, node)
    if grid is None or not quantizes(quantizer):
        return
    for name in names:
        model.set_submodule(name, nn.Identity())
    model.set_submodule(names[-1], Table(grid, functions, quantizer))
