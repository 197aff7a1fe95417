"""Networks of Brevitas' own layers: learned steps replace their quantizers; codes and steps are kept.

Brevitas comes to a step in many ways: from the largest weight, a parameter, a constant, statistics that were
collected; its quantizers may be shared. All end in one number, or in one for each output channel, and every
quantizer says it. So the quantizers are asked, and what they have stored is not looked at.

    act_quant, input_quant, output_quant   a grid with one step
    weight_quant                           a learned step for the layer, or one for each output channel
    bias_quant                             the bias takes the values that it gives

A network that is trained from scratch begins with steps of its own, as any other here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from brevitas.core.bit_width import BitWidthConst
from brevitas.core.quant import RescalingIntQuant
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.nn.mixin import QuantWeightMixin
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from torch import Tensor, fx, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models import quant_layers
from qmu_edge.models.follow import Followed, call_module, module_of
from qmu_edge.models.layers import Layers
from qmu_edge.models.names import COUNTS, require_shapes, require_whole, unwrapped
from qmu_edge.models.quantizers.presets import LearnedStep

OURS: Final = (
    quant_layers.QuantConv2d, quant_layers.QuantLinear, quant_layers.QuantReLU, quant_layers.QuantIdentity,
)  # fmt: skip
_PLACES: Final = ("input", "act", "weight", "bias", "output")
_RECTIFIER: Final = "QuantReLU"


def is_of_brevitas(network: nn.Module) -> bool:
    """Whether a network has a layer of Brevitas, and not of `quant_layers`."""
    return any(_is_theirs(module) for module in network.modules())


def quantizer_problem(layer: nn.Module) -> str:
    """Why the quantizers of a layer cannot be taken; empty where they can."""
    for place, proxy in _quantizers(layer):
        if place != "bias" and (problem := _problem(place, proxy)):
            return f"has a quantizer of its {place} that cannot be taken: {problem}"
    return ""


def _problem(place: str, proxy: Any) -> str:
    quantizer = _rule(proxy)
    if not isinstance(quantizer, RescalingIntQuant):
        return f"{type(quantizer).__name__}; allowed are integers of 2 to 8 bits, scaled by one step"
    zeros = [m for name, m in proxy.named_modules() if name.endswith("zero_point_impl")]
    if proxy.rounding_mode != "ROUND" or not all(isinstance(m, ZeroZeroPoint) for m in zeros):
        return "it rounds by a zero point, or not to the nearest code; neither can be exported"
    bits = proxy.quant_injector.bit_width
    if not isinstance(quantizer.msb_clamp_bit_width_impl, BitWidthConst) or not 2 <= bits <= 8:
        return f"{bits} bits, or a number of bits that is learned; allowed are 2 to 8"
    if isinstance(proxy, DynamicActQuantProxyFromInjector):
        return "its step depends on the image"
    if place == "weight":
        return "" if proxy.is_signed else "codes without a sign"
    return "one step for each channel; allowed is one for all" if _steps(proxy) > 1 else ""


def _steps(proxy: Any) -> int:
    """How many steps a quantizer has."""
    given = proxy.quant_injector
    return int(torch.Size(given.scaling_shape).numel()) if "scaling_shape" in given else 1


def loaded(
    network: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, str], source: object
) -> nn.Module:
    """A network of Brevitas with the state of a checkpoint, by Brevitas itself.

    Args:
        network: As its file makes it; it is changed.
        weights: The state by name.
        names: Parts of names that differ, `its name = "their name"`; see `qmu_edge.models.names`.
        source: What the checkpoint is called in messages.

    Raises:
        ConfigError: A tensor is left over on either side, or has another shape; all are named.
    """
    own = network.state_dict()
    bare = unwrapped(weights, lambda name: _its_name(name, names) in own)
    given = {_its_name(name, names): tensor for name, tensor in bare.items()}
    require_shapes(own, given, {name: name for name in own.keys() & given.keys()}, source)
    try:
        missing, unused = network.load_state_dict(given, strict=False)
    except RuntimeError as error:  # whatever a quantizer says of what it is given
        raise ConfigError(f"{source}: {' '.join(str(error).split())[:200]}") from None
    require_whole({name for name in missing if not name.endswith(COUNTS)}, set(unused), source)
    return network.eval()


def _its_name(name: str, names: Mapping[str, str]) -> str:
    for own, their in names.items():
        if name == their or name.startswith(f"{their}."):
            return own + name[len(their) :]
    return name


def with_learned_steps(calls: Followed, make: Layers) -> Followed:
    """The same network with layers and grids of `make`, on the steps that Brevitas' quantizers have.

    A step that Brevitas does not know yet stays unset.

    Args:
        calls: From `qmu_edge.models.follow.standard`, in evaluation mode.
        make: Makes quantizers.

    Raises:
        ConfigError: The recipe's quantizers have no steps to set, or a code would become another one.
    """
    if make.recipe.quantizer == "statistics":
        raise ConfigError('[model] quantizer: allowed for layers of Brevitas is "learned_step"')
    network = fx.GraphModule(calls.network, calls.graph)
    taking = _Taking(calls._replace(network=network), make)
    with torch.no_grad():
        for node in list(calls.graph.nodes):
            if _is_theirs(module_of(network, node)):
                taking.take(node)
    calls.graph.lint()  # type: ignore[no-untyped-call]
    network.recompile()
    return taking.calls


def require_kept_steps(model: nn.Module, source: object) -> None:
    """Refuse steps that the quantizers of the recipe would change.

    Raises:
        ConfigError: There is one; its quantizer is named.
    """
    for name, module in model.named_modules():
        if not isinstance(module, LearnedStep) or not bool(module.step.isfinite().all()):
            continue
        if not torch.equal(module.value(), module.step.detach()):
            why = "too small to be learned"
            if module.power_of_two:
                why = 'no power of two, as [model] activation_steps says; allowed with "free"'
            owner = name.partition("_quant.")[0].rpartition(".")[0]
            raise ConfigError(f"{source}: {owner}: its step {float(module.step.detach().min()):g} is {why}")


class _Taking:
    """Goes through a graph and replaces layers of Brevitas.

    Attributes:
        calls: The graph.
        make: Makes quantizers.
        weights: The layer of each weight, for weights that two layers share.
    """

    def __init__(self, calls: Followed, make: Layers) -> None:
        self.calls, self.make = calls, make
        self.weights: dict[int, Any] = {}

    def take(self, node: fx.Node) -> None:
        """Replace a layer, and put grids before and behind it where it has them."""
        layer: Any = module_of(self.calls.network, node)
        places = dict(_quantizers(layer))
        if "input" in places:
            x = node.all_input_nodes[0]
            grid = self._put(node, f"{node.target}_input", self._grid(places["input"]), x)
            node.replace_input_with(x, grid)
        rectifies = type(layer).__name__ == _RECTIFIER
        behind = [places[place] for place in ("output",) if place in places]
        if isinstance(layer, QuantWeightMixin):
            made = self._layer(node, layer, places)
        elif "act" not in places:
            made = nn.ReLU() if rectifies else nn.Identity()
        elif rectifies and places["act"].is_signed:
            made, behind = nn.ReLU(), [places["act"], *behind]
        else:
            made = self._grid(places["act"], rectifies=rectifies)
        self.calls.network.set_submodule(str(node.target), made)
        for proxy in behind:
            new = self._put(node.next, f"{node.target}_output", self._grid(proxy), node)
            for user in [user for user in node.users if user is not new]:
                user.replace_input_with(node, new)
            node = new

    def _put(self, before: fx.Node, name: str, grid: nn.Module, x: fx.Node) -> fx.Node:
        new = call_module(self.calls.network, before, name, grid, x)
        new.stack_trace = x.stack_trace
        for values in (self.calls.values, self.calls.more):
            values[new] = values[x]
        return new

    def _grid(self, proxy: Any, *, rectifies: bool = False) -> nn.Module:
        made: Any = self.make.grid(
            int(proxy.bit_width()), signed=proxy.is_signed, rectifies=rectifies,
            narrow=bool(proxy.is_narrow_range),
        )  # fmt: skip
        scaling = made.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
        if _is_known(proxy):
            scaling.step.fill_(float(proxy.scale()))
        return made  # type: ignore[no-any-return]

    def _layer(self, node: fx.Node, layer: Any, places: Mapping[str, Any]) -> nn.Module:
        made: Any = self.make.copied(layer, self._weight(layer, places.get("weight")))
        first = self.weights.setdefault(id(layer.weight), made)
        if first is not made:
            made.weight = first.weight
        if "bias" in places:
            entering = self.calls.values[node.all_input_nodes[0]]
            bias = places["bias"](layer.bias, entering, layer.quant_weight())
            made.bias.copy_(getattr(bias, "value", bias))
        if "weight" in places:
            step, steps = made.weight_quant.tensor_quant.scaling_impl.step, places["weight"].scale()
            step.copy_(steps.reshape(step.shape))
            ours, theirs = (m.eval().quant_weight().int() for m in (made, layer))
            if not torch.equal(ours, theirs):
                raise ConfigError(
                    f"{node.target}: {int((ours != theirs).sum())} of its codes are not the nearest ones to "
                    "its weight on the steps of its quantizer: it cannot be taken"
                )
        return made  # type: ignore[no-any-return]

    def _weight(self, layer: Any, proxy: Any) -> dict[str, Any]:
        """Arguments of a layer for a quantizer of the bits and the range of another one."""
        if proxy is None:
            return {"weight_quant": None}
        shape = tuple(proxy.scale().shape)
        channels = (len(layer.weight), *(1,) * (layer.weight.dim() - 1))
        if proxy.scale().numel() == 1:
            shape = (1,) * layer.weight.dim()
        elif shape != channels:
            raise ConfigError(f"steps of the form {shape}; allowed are one, and {channels}")
        return {
            "weight_quant": self.make.preset.weight, "weight_bit_width": int(proxy.bit_width()),
            "weight_narrow_range": bool(proxy.is_narrow_range), "weight_scaling_shape": shape,
        }  # fmt: skip


def _is_theirs(module: nn.Module | None) -> bool:
    return isinstance(module, QuantLayerMixin) and type(module) not in OURS


def _quantizers(layer: nn.Module | None) -> Iterator[tuple[str, Any]]:
    """The quantizers of a layer that are in use, by their places."""
    for place in _PLACES:
        proxy: Any = getattr(layer, f"{place}_quant", None)
        if proxy is not None and proxy.is_quant_enabled:
            yield place, proxy


def _rule(proxy: Any) -> Any:
    """What a quantizer computes."""
    fused = getattr(proxy, "fused_activation_quant_proxy", None)
    return proxy.tensor_quant if fused is None else fused.tensor_quant


def _is_known(proxy: Any) -> bool:
    """Whether the statistics of a step are complete."""
    return all(
        m.counter > m.collect_stats_steps
        for m in proxy.modules()
        if isinstance(m, ParameterFromRuntimeStatsScaling)
    )
