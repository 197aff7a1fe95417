"""The deploy form: a copy of the network that every runtime computes with the same bits.

During training a network has batch-norms and arbitrary weight scales. Integer kernels compute another
function: they accumulate products of codes in integers, add an integer bias, multiply once, and round to the
next grid. A network that only approximates this disagrees where a value lies near the middle between two
codes, and at 4 bits one such difference spreads over the whole image. The deploy form computes it exactly, in
float32 and with ordinary layers:

    conv       weights on a power-of-two step, inputs on a power-of-two step: every product and every sum
               is a multiple of step x step, exact in float32 in any order of summation
    + bias     on the grid step x step, so exact as well
    x gain     the weight's own scale times batch-norm's, one per channel: the only rounding, and the same as
               in an integer kernel
    quantize   divides by a power of two: exact
    a sum      of two quantized tensors, and a mean, is multiplied by 1 - 2^-12 before it is quantized: halves
               of a code are common there, and kernels for ARM round them to another code than those for x86

Batch-norms of float layers are folded into weights and bias.

Mantissas of gains have 8 or 6 bits, so that sums stay exact in a runtime that multiplies gains into the
weights first and accumulates floats.

Source: the requantization of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877.
Differs: the bias is added before the scale and not after it, and weights keep their codes while their step
    moves into the scale.
"""

import copy
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qmu_edge.errors import ExportError
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.kernels.steps import short_mantissa
from qmu_edge.models.layers import Classifier, Normalize
from qmu_edge.models.quantizers.presets import LearnedStep

LARGEST_BIAS: Final = 2.0**30  # in units of step x step: sums fit int32
LARGEST_HALF: Final = 65504.0  # of float16
EQUIVALENT: Final = 1e-3
KEEPS_GRID: Final = (nn.MaxPool2d, nn.Flatten, nn.Dropout)
BELOW_ONE: Final = 1 - 2.0**-12  # of codes below 2048, no multiple of a power of two becomes half a code
ROUNDS_NOTHING: Final = (*KEEPS_GRID, nn.ReLU, nn.Hardtanh, nn.Identity)
_MARK: Final = "_qmu_edge_mark"  # attribute of tensors that `_arriving` sets in its forward pass


class Grid(NamedTuple):
    """Step and bits of a quantized tensor."""

    step: float
    bits: int


class Affine(nn.Module):
    """(x + bias) * gain, per channel."""

    bias: Tensor
    gain: Tensor

    def __init__(self, bias: Float[Tensor, " c"], gain: Float[Tensor, " c"], rank: int) -> None:
        """Store both in float32, for inputs of `rank` dimensions."""
        super().__init__()
        shape = (1, -1, *(1,) * (rank - 2))
        self.register_buffer("bias", bias.float().view(shape))
        self.register_buffer("gain", gain.float().view(shape))

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """(x + bias) * gain."""
        return (x + self.bias) * self.gain


class BreakTies(nn.Module):
    """x * (1 - 2^-12): of a sum or a mean of codes, nothing is left in the middle between two codes.

    Attributes:
        factor: What it multiplies by.
    """

    factor = BELOW_ONE

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """A little smaller."""
        return x * self.factor


def deploy(model: Classifier, size: int) -> Classifier:
    """The deploy form of a network; the network itself does not change.

    Integer codes do not change except in two kinds of channels: where batch-norm's scale is negative, the
    codes change sign (not the four codes of 2 bits, which are not symmetric: there the gain stays negative),
    and where batch-norm's scale is (almost) zero, the codes are zero.

    Args:
        model: Calibrated and re-quantized, on the CPU.
        size: Image side in pixels.

    Raises:
        ExportError: A weight, a scale or a batch-norm value is not finite.
    """
    deployed = copy.deepcopy(model).eval()
    grids = input_grids(deployed, size)
    with torch.no_grad():
        for name, layer in list(weight_layers(deployed)):
            if layer.weight_quant.is_quant_enabled:
                _replace(deployed, name, layer, grids.get(name))
            else:
                _fold(deployed, name, layer)
    for name in _sums(deployed, size):
        parent, _, place = name.rpartition(".")
        quantizer = deployed.get_submodule(name)
        deployed.get_submodule(parent)._modules[place] = nn.Sequential(BreakTies(), quantizer)
    return deployed


def require_equivalent(model: Classifier, deployed: Classifier, images: Float[Tensor, "n c h w"]) -> None:
    """Compare a deploy form with the network in float64, without activation quantizers.

    With activation quantizers two correct forms may round a value near a tie to different codes.

    Args:
        model: A network after `settle`.
        deployed: Its deploy form.
        images: Float images 0..1.

    Raises:
        ExportError: Logits differ by more than a thousandth of the largest.
    """
    logits = []
    for network in (model, deployed):
        smooth = copy.deepcopy(network).eval()
        with torch.no_grad():  # codes as rounded in float32: near a tie, float64 may give others
            for _, layer in weight_layers(smooth):
                if layer.weight_quant.is_quant_enabled:
                    layer.weight.copy_(layer.quant_weight().value)
                    layer.weight_quant.disable_quant = True
        for module in smooth.double().modules():
            if isinstance(module, BreakTies):  # without quantizers there are no ties
                module.factor = 1.0
            proxy: Any = getattr(module, "act_quant", None)
            if proxy is not None:
                proxy.disable_quant = True
        with torch.no_grad():
            logits.append(smooth(images.double()))
    difference = float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())
    if not difference < EQUIVALENT:
        raise ExportError(f"the deploy form computes something else: logits differ by {difference:.2%}")


def settle(model: Classifier, size: int) -> None:
    """Set batch-norms and the head's bias to the rounded values of the deploy form, in place.

    Afterwards the trained network computes the same function as the exported one.
    """
    deployed = deploy(model, size)
    with torch.no_grad():
        for name, layer in weight_layers(model):
            if not layer.weight_quant.is_quant_enabled:
                continue
            affine: Any = _behind(deployed, name)
            norm: Any = _behind(model, name)
            gain: Tensor = affine.gain.double().reshape(-1)
            shift = affine.bias.double().reshape(-1) * gain
            if isinstance(norm, nn.BatchNorm2d):
                old = weight_scale(layer).double()
                gain = gain * weight_scale(deployed.get_submodule(name)).double() / old
                sign = torch.where(norm.weight < 0, -1.0, 1.0) * torch.where(gain < 0, -1.0, 1.0)
                gain = gain * sign  # where codes changed sign, so did the gain
                norm.weight.copy_(gain * _deviation(norm))
                norm.bias.copy_(shift + _mean(norm) * gain)
            elif layer.bias is not None:
                layer.bias.copy_(shift)


def gain_bits(weight_bits: int, input_bits: int) -> int:
    """Bits of a gain's mantissa, so that sums of code x code x gain fit the 24 bits of float32.

    >>> gain_bits(4, 4), gain_bits(8, 8)
    (8, 6)
    """
    return 8 if weight_bits + input_bits <= 12 else 6


def input_grids(model: Classifier, size: int) -> dict[str, Grid]:
    """The grid of the input of each weight layer, by its name; without layers with a float input."""
    names = {layer: name for name, layer in weight_layers(model)}

    def grid(module: Any) -> Grid | None:
        if not _quantizes(module):
            return None
        return Grid(float(module.act_quant.scale()), int(module.act_quant.bit_width()))

    found = _arriving(model, size, names, grid, KEEPS_GRID)
    return {names[layer]: arrived for layer, arrived in found.items() if arrived is not None}


def _sums(model: Classifier, size: int) -> list[str]:
    """Names of the quantizers that round what no layer made: sums of tensors, and means over space."""
    names = {module: name for name, module in model.named_modules() if _quantizes(module)}

    found = _arriving(model, size, names, lambda module: _marks(module) or None, ROUNDS_NOTHING)
    return [names[quantizer] for quantizer, arrived in found.items() if arrived is None]


def _quantizes(module: nn.Module) -> bool:
    return bool(getattr(getattr(module, "act_quant", None), "is_quant_enabled", False))


def _arriving(
    model: Classifier,
    size: int,
    at: Collection[nn.Module],
    mark: Callable[[nn.Module], Any],
    passes: tuple[type[nn.Module], ...],
) -> dict[nn.Module, Any]:
    """The mark of what arrives at some modules, in the order in which a black image reaches them.

    Args:
        model: Any network.
        size: Image side in pixels.
        at: Modules.
        mark: What a module marks its output with; None for modules that leave no mark.
        passes: Kinds of modules that pass a mark on.
    """
    found: dict[nn.Module, Any] = {}

    def arrived(module: nn.Module, x: tuple[Tensor]) -> None:
        found.setdefault(module, getattr(x[0], _MARK, None))

    def left(module: nn.Module, x: tuple[Tensor], y: Tensor) -> None:
        kept = getattr(x[0], _MARK, None) if isinstance(module, passes) else None
        if (own := mark(module)) is not None or kept is not None:
            setattr(y, _MARK, kept if own is None else own)

    handles: list[Any] = [module.register_forward_pre_hook(arrived) for module in at]
    handles += [m.register_forward_hook(left) for m in model.modules() if isinstance(m, passes) or _marks(m)]
    example = torch.zeros(1, model.shape.channels, size, size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def _marks(module: nn.Module) -> bool:
    return _quantizes(module) or isinstance(module, Affine | Normalize)


def round_steps(weight: Float[Tensor, "o ..."], quantizer: RescalingIntQuant) -> None:
    """Round the steps of a weight to powers of two, in place, and the weight to its codes, which are kept.

    The weight becomes code x step exactly: otherwise scaling could move a weight near the middle between two
    codes to the other one.
    """
    threshold = _threshold(quantizer)
    old = quantizer.scaling_impl(weight, threshold)
    new = short_mantissa(old, 1)
    weight.copy_((weight / old).round() * new)
    if isinstance(quantizer.scaling_impl, LearnedStep):
        quantizer.scaling_impl.step.copy_(new)
    else:  # Brevitas' step is the largest magnitude / threshold, where threshold is a code
        bound = new * threshold
        weight.copy_(weight.clamp(-bound, bound))


def weight_scale(layer: Any) -> Float[Tensor, " o"]:
    """Scale of a layer's weight, one per output channel."""
    quantizer, weight = layer.weight_quant.tensor_quant, layer.weight
    scale: Tensor = quantizer.scaling_impl(weight, _threshold(quantizer))
    return scale.expand(weight.shape[0], *(1,) * (weight.dim() - 1)).reshape(-1)


def _replace(model: Classifier, name: str, layer: Any, grid: Grid | None) -> None:
    """Give a layer a power-of-two step; an `Affine` after it has the rest of its scale and its batch-norm."""
    weight = layer.weight
    norm: Any = _behind(model, name)
    scale = weight_scale(layer).double()
    shift = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    gain = torch.ones_like(scale)
    if isinstance(norm, nn.BatchNorm2d):
        gain = norm.weight.double() / _deviation(norm)
        shift = (shift - _mean(norm)) * gain + norm.bias
    if not all(bool(t.isfinite().all()) for t in (weight, scale, gain, shift)):
        raise ExportError(f"{name}: a weight, a scale or a batch-norm value is not finite")
    round_steps(weight, layer.weight_quant.tensor_quant)
    step = weight_scale(layer).double()
    gain = gain * scale / step
    if layer.weight_quant.is_narrow_range:
        weight.mul_(_over(torch.where(gain < 0, -1.0, 1.0), weight))
        gain = gain.abs()
    unit = step * (grid.step if grid else 1.0)
    off = shift.abs() >= LARGEST_BIAS * unit * gain.abs()
    weight.masked_fill_(_over(off, weight), 0.0)
    gain = torch.where(off, shift.abs() / (LARGEST_BIAS * unit), gain)
    gain = torch.where(gain == 0, 1.0, gain)
    if isinstance(norm, nn.BatchNorm2d) and model.recipe.activation_steps == "power_of_two":
        gain = short_mantissa(gain, gain_bits(int(layer.weight_quant.bit_width()), grid.bits if grid else 0))
        if grid is None and bool((shift.abs() < LARGEST_HALF).all()):
            shift = shift.half().double()  # two bytes in a packed file; a float layer has no integer bias
    gain = gain.float().double()
    bias = shift / gain
    if grid:
        bias = ((bias / unit).round() * unit).float()  # so that every runtime has the same integer bias
    layer.bias = None
    _put_behind(model, name, Affine(bias, gain, max(2, weight.dim())))


def _fold(model: Classifier, name: str, layer: Any) -> None:
    """Fold the batch-norm after a float layer into its weight and bias."""
    norm: Any = _behind(model, name)
    if isinstance(norm, nn.BatchNorm2d):
        statistics: tuple[Any, Any] = norm.running_mean, norm.running_var
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, *statistics, norm.eps, norm.weight, norm.bias
        )
        parent, place = _place_behind(model, name)
        parent._modules[place] = nn.Identity()


def _behind(model: nn.Module, name: str) -> Any:
    """The module after a layer in its Sequential; None after the last one or without a Sequential."""
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Sequential):  # a layer of a deploy form, see _put_behind
        return layer[1]
    parent, place = _place_behind(model, name)
    return parent._modules[place] if place else None


def _place_behind(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The parent of a layer, and the name of the next module in it; "" where there is none."""
    parent, place = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    if not isinstance(parent, nn.Sequential):
        return parent, ""
    names = [*parent._modules, ""]
    return parent, names[names.index(place) + 1]


def _put_behind(model: nn.Module, name: str, affine: Affine) -> None:
    """Replace a layer's batch-norm by `affine`, or without one the layer by a Sequential of both."""
    parent, place = _place_behind(model, name)
    if isinstance(_behind(model, name), nn.BatchNorm2d):
        parent._modules[place] = affine
    else:
        place = name.rpartition(".")[2]
        parent._modules[place] = nn.Sequential(parent._modules[place], affine)  # type: ignore[arg-type]


def _mean(norm: nn.BatchNorm2d) -> Float[Tensor, " c"]:
    mean: Any = norm.running_mean
    double: Tensor = mean.double()
    return double


def _deviation(norm: nn.BatchNorm2d) -> Float[Tensor, " c"]:
    variance: Any = norm.running_var
    deviation: Tensor = (variance.double() + norm.eps).sqrt()
    return deviation


def _threshold(quantizer: RescalingIntQuant) -> Tensor:
    threshold: Tensor = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    return threshold


def _over(channels: Shaped[Tensor, " o"], weight: Float[Tensor, "o ..."]) -> Tensor:
    return channels.view(-1, *(1,) * (weight.dim() - 1))
