"""Networks of plain torch.nn layers: the recipe's quantizers are put in.

    convolutions, linear layers   quantized weights; the first and the last one have the recipe's `edge_bits`
    what enters one, and an       on a grid: that of the rectifier where there is one, else one of
    addition, a product, a mean,  `residual_bits`; so are learned tensors that are added
    a layer-norm or softmax
    rectifiers behind a layer     rectify onto an unsigned grid; so does ReLU6, whose grid learns where to end
    other functions               of a quantized tensor, onto another grid: in the deploy form tables of codes

Brevitas' own pass (`brevitas.graph.quantize`) is not used: it merges batch-norms before training, needs equal
scales and tensors that carry them wherever two tensors meet, and knows no product and no function but
rectifiers. Steps could neither be powers of two of their own, nor be trained by the fused passes.
"""

from typing import Any

from brevitas.nn.mixin import QuantWeightMixin
from torch import fx, nn

from qmu_edge.models.follow import Followed, call_module, module_of, stored, tensors_in
from qmu_edge.models.kinds import (
    FUNCTIONS,
    NORMS,
    NOT_NEGATIVE,
    PASSING,
    RECTIFIERS,
    WEIGHTED,
    leads_out,
    moves,
    quantizes,
    weighted,
)  # fmt: skip
from qmu_edge.models.layers import Layers
from qmu_edge.models.tokens import Softmax


def quantized(calls: Followed, make: Layers, *, whole: bool) -> fx.GraphModule:
    """The network with quantizers; weights, batch-norms and their names are those of the network given.

    Args:
        calls: From `standard`; of plain layers, or of quantized ones between them.
        make: Makes quantizers.
        whole: Whether it gives logits; otherwise it gives features, which are quantized.

    Returns:
        A graph that calls the modules of the network, and quantizers.
    """
    made = fx.GraphModule(calls.network, calls.graph)
    placing = _Placing(made, make, whole=whole)
    for node in [node for node in calls.graph.nodes if tensors_in(calls.values[node])]:
        placing.place(node)
    calls.graph.lint()  # type: ignore[no-untyped-call]
    made.recompile()
    return made


class _Placing:
    """Goes through a graph and puts a quantizer where there must be one.

    Attributes:
        on_grid: Calls whose values lie on a grid.
        negative: Whether the values of a call may be negative.
        stored: Parameters, and what is computed from them alone.
        plain: Whether activations are float, so that there are no grids.
        floats: Whether the image and what enters the last layer are.
        weights: The quantized layer of each weight, for weights that two layers share.
    """

    def __init__(self, network: fx.GraphModule, make: Layers, *, whole: bool) -> None:
        self.network, self.make, self.recipe = network, make, make.recipe
        self.on_grid: set[fx.Node] = set()
        self.negative: dict[fx.Node, bool] = {}
        self.stored = stored(network.graph)
        self.plain = make.recipe.activation_bits == "float"
        self.floats = self.plain or make.recipe.edge_bits == "float"
        self.whole = whole
        layers = weighted(network, network.graph)
        self.last = layers[-1] if layers and whole else None
        self.edges = {*layers[:1], self.last}
        self.weights: dict[int, Any] = {}

    def place(self, node: fx.Node) -> None:
        """Put quantizers before and behind a call."""
        inputs = [x for x in node.all_input_nodes if x in self.negative]
        self.negative[node] = not inputs or any(self.negative[x] for x in inputs)
        if node.op == "output":
            if not self.whole:
                self._read(node)
            return
        if node.op == "placeholder":
            if not self.floats:
                self.on_grid.add(node)
            return
        if node in self.stored:  # gets a grid where it meets another tensor
            self.negative[node] = True
            return
        module: Any = module_of(self.network, node)
        if quantizes(module):
            self._is_on_grid(node, negative=bool(module.act_quant.is_signed))
        elif isinstance(module, WEIGHTED):
            self._weighted(node, module)
        elif isinstance(module, NORMS):
            if not self._behind_a_layer(node):
                self._read(node)
            self.negative[node] = True
        elif isinstance(module, FUNCTIONS):
            self._function(node, module)
        elif moves(self.network, node):
            if not isinstance(module, PASSING) and not (self.whole and leads_out(self.network, node)):
                self._read(node)
            if node.all_input_nodes[0] in self.on_grid:
                self.on_grid.add(node)
        else:  # sums, products, means, and what is computed along an axis
            self._read(node)
            self.negative[node] &= not isinstance(module, Softmax)
        if node not in self.on_grid and len(node.users) > 1:
            self._put_behind(node)

    def _weighted(self, node: fx.Node, layer: nn.Module) -> None:
        if not isinstance(layer, QuantWeightMixin):
            made = self.make.like(layer, edge=node in self.edges)  # type: ignore[arg-type]
            first = self.weights.setdefault(id(layer.weight), made)
            if first is not made:
                made.weight = first.weight
            self.network.set_submodule(str(node.target), made)
        if not (self.floats and node in self.edges):
            self._read(node)
        self.negative[node] = True

    def _function(self, node: fx.Node, function: nn.Module) -> None:
        """A rectifier of sums has its grid with it; any other function becomes a table."""
        if self.plain:
            return
        (x,) = node.all_input_nodes
        if isinstance(function, RECTIFIERS) and x not in self.on_grid and not self._is_function(x):
            self.network.set_submodule(str(node.target), self.make.relu())
            self._is_on_grid(node, negative=False)
            return
        if not self._is_function(x):
            self._read(node)
        self.negative[node] = not isinstance(function, NOT_NEGATIVE)
        (*users,) = node.users
        if len(users) != 1 or not self._is_function(users[0]):
            self._put_behind(node, bits=self.recipe.activation_bits)

    def _is_function(self, node: fx.Node) -> bool:
        return isinstance(module_of(self.network, node), FUNCTIONS)

    def _behind_a_layer(self, node: fx.Node) -> bool:
        (x,) = node.all_input_nodes
        return isinstance(module_of(self.network, x), WEIGHTED)

    def _read(self, node: fx.Node) -> None:
        """Have what enters a call on a grid."""
        for x in node.all_input_nodes:
            if x in self.negative and x not in self.on_grid:
                at_edge = node is self.last
                self._put_behind(x, bits=self.recipe.edge_bits if at_edge else None, signed=at_edge)

    def _put_behind(self, node: fx.Node, bits: Any = None, *, signed: bool = False) -> None:
        """Put a grid behind a call, for all that read it."""
        if self.plain or bits == "float":
            return
        made = self.make.grid(bits or self.recipe.residual_bits, signed=signed or self.negative[node])
        name = str(node.target) if node.op == "call_module" else node.name
        new = call_module(self.network, node.next, f"{name}_grid", made, node)
        new.stack_trace = node.stack_trace
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self._is_on_grid(new, negative=signed or self.negative[node])

    def _is_on_grid(self, node: fx.Node, *, negative: bool) -> None:
        self.on_grid.add(node)
        self.negative[node] = negative
