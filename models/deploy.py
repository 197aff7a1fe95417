"""The deploy form: a copy of the network that every runtime computes to the bit.

Training keeps batch-norm and free weight scales. Integer kernels do something else: they add code x code as
integers, add an integer bias, multiply once, and round to the next grid. A network that only comes close to
this disagrees where a value falls near the middle between two codes, and at 4 bits one such flip spreads over
the whole image. The deploy form computes it exactly, in float32 and with ordinary layers:

    conv       weights on a power-of-two step, inputs on a power-of-two step: every product and every sum
               is a multiple of step x step, exact in float32 in whatever order it is added up
    + bias     on the grid step x step, so exact as well
    x scale    the free weight scale and batch-norm's, one per channel: the only rounding, the same one that
               an integer kernel makes
    quantize   divides by a power of two: exact

Source: the requantization of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877.
Differs: the bias is added before the scale and not after it, and weights keep their codes while their step
    moves into the scale.
"""

import copy
from typing import Any, Final

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from qmu_edge.errors import ExportError
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers import LearnedStep, power_of_two
from qmu_edge.models.scales import weight_layers

LARGEST_BIAS: Final = 2.0**22  # in units of the grid: sums stay below 2**24, where float32 is exact
KEEPS_GRID: Final = (nn.MaxPool2d, nn.Flatten, nn.Dropout)
_STEP: Final = "_qmu_edge_step"  # noted on the tensor object while `input_steps` looks on


class Affine(nn.Module):
    """(x + bias) * scale, per channel."""

    bias: Tensor
    scale: Tensor

    def __init__(self, bias: Float[Tensor, " c"], scale: Float[Tensor, " c"], rank: int) -> None:
        """Keep both in float32, for inputs of `rank` dimensions."""
        super().__init__()
        shape = (1, -1, *(1,) * (rank - 2))
        self.register_buffer("bias", bias.float().view(shape))
        self.register_buffer("scale", scale.float().view(shape))

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """One sum, one product."""
        return (x + self.bias) * self.scale


def deploy(model: Classifier, size: int) -> Classifier:
    """The deploy form of a network; the network itself is left as it is.

    Integer codes stay, but for two kinds of channels: where batch-norm's scale is negative, the codes change
    sign (not the four codes of 2 bits, which have no mirror image: there the scale stays negative), and where
    batch-norm turned the channel off, the codes are zero.

    Args:
        model: Calibrated and re-quantized, on the CPU.
        size: Image side in pixels.

    Raises:
        ExportError: A weight, a scale or a batch-norm value is not finite.
    """
    deployed = copy.deepcopy(model).eval()
    steps = input_steps(deployed, size)
    with torch.no_grad():
        for name, layer in list(weight_layers(deployed)):
            if layer.weight_quant.is_quant_enabled:
                _replace(deployed, name, layer, steps.get(name))
    return deployed


def settle_biases(model: Classifier, size: int) -> None:
    """Move the biases of batch-norms and of the head to where the deploy form puts them, in place.

    Then the network that was trained and the one that ships answer the same.
    """
    deployed = deploy(model, size)
    with torch.no_grad():
        for name, layer in weight_layers(model):
            if not layer.weight_quant.is_quant_enabled:
                continue
            affine, norm = _behind(deployed, name), _behind(model, name)
            shift = (affine.bias.double() * affine.scale).reshape(-1)
            if isinstance(norm, nn.BatchNorm2d):
                norm.bias.copy_(shift + norm.running_mean.double() * _gain(norm))
            elif layer.bias is not None:
                layer.bias.copy_(shift)


def input_steps(model: Classifier, size: int) -> dict[str, float]:
    """Step of the grid on which the input of each weight layer lies; without those with a float input."""
    found: dict[str, float] = {}
    names = {layer: name for name, layer in weight_layers(model)}

    def quantized(layer: Any, _: Any, y: Tensor) -> None:
        setattr(y, _STEP, float(layer.act_quant.scale()))

    def passed_on(_: Any, x: tuple[Tensor], y: Tensor) -> None:
        if hasattr(x[0], _STEP):
            setattr(y, _STEP, getattr(x[0], _STEP))

    def read(layer: nn.Module, x: tuple[Tensor]) -> None:
        if hasattr(x[0], _STEP):
            found[names[layer]] = getattr(x[0], _STEP)

    handles = []
    for module in model.modules():
        if module in names:
            handles.append(module.register_forward_pre_hook(read))
        elif getattr(getattr(module, "act_quant", None), "is_quant_enabled", False):
            handles.append(module.register_forward_hook(quantized))
        elif isinstance(module, KEEPS_GRID):
            handles.append(module.register_forward_hook(passed_on))
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


def round_steps(weight: Float[Tensor, "o ..."], quantizer: RescalingIntQuant) -> Float[Tensor, " o"]:
    """Put the steps of a weight on powers of two, in place; integer codes stay as they are.

    Returns:
        The steps, one per output channel.
    """
    threshold = _threshold(quantizer)
    old = quantizer.scaling_impl(weight, threshold)
    new = power_of_two(old)
    if isinstance(quantizer.scaling_impl, LearnedStep):
        weight.mul_(new / old)
        quantizer.scaling_impl.step.copy_(new)
    else:  # the step is the largest magnitude / threshold: put that weight where it gives `new` exactly
        magnitude = weight.abs()
        largest = magnitude == magnitude.amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        bound = new * threshold
        weight.copy_(torch.where(largest, weight.sign() * bound, (weight * (new / old)).clamp(-bound, bound)))
    return _per_channel(new, weight)


def _replace(model: Classifier, name: str, layer: Any, input_step: float | None) -> None:
    """Put a layer on a power-of-two step, and what this and its batch-norm amount to behind it."""
    quantizer: RescalingIntQuant = layer.weight_quant.tensor_quant
    weight, norm = layer.weight, _behind(model, name)
    scale = _per_channel(quantizer.scaling_impl(weight, _threshold(quantizer)), weight).double()
    shift = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    gain = torch.ones_like(scale)
    if isinstance(norm, nn.BatchNorm2d):
        gain = _gain(norm)
        shift = (shift - norm.running_mean) * gain + norm.bias
    if not all(bool(t.isfinite().all()) for t in (weight, scale, gain, shift)):
        raise ExportError(f"{name}: a weight, a scale or a batch-norm value is not finite")
    step = round_steps(weight, quantizer).double()
    gain = gain * scale / step
    if layer.weight_quant.is_narrow_range:
        weight.mul_(_over(torch.where(gain < 0, -1.0, 1.0), weight))
        gain = gain.abs()
    grid = step * (input_step or 1.0)
    off = shift.abs() >= LARGEST_BIAS * grid * gain.abs()
    weight.masked_fill_(_over(off, weight), 0.0)
    gain = torch.where(off, shift.abs() / (LARGEST_BIAS * grid), gain).float().double()
    gain = torch.where(gain == 0, 1.0, gain)
    bias = shift / gain if input_step is None else (shift / gain / grid).round() * grid
    layer.bias = None
    _put_behind(model, name, Affine(bias, gain, max(2, weight.dim())))


def _behind(model: nn.Module, name: str) -> Any:
    """What follows a layer in the Sequential that holds it; None at its end or without one."""
    parent, place = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    if isinstance(model.get_submodule(name), nn.Sequential):  # a deployed layer: _put_behind made this
        return model.get_submodule(name)[1]
    if not isinstance(parent, nn.Sequential) or int(place) + 1 >= len(parent):
        return None
    return parent[int(place) + 1]


def _put_behind(model: nn.Module, name: str, affine: Affine) -> None:
    """Put `affine` in the place of a layer's batch-norm, or together with the layer in the layer's place."""
    parent, place = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    if isinstance(_behind(model, name), nn.BatchNorm2d):
        parent._modules[str(int(place) + 1)] = affine
    else:
        parent._modules[place] = nn.Sequential(parent._modules[place], affine)  # type: ignore[arg-type]


def _gain(norm: nn.BatchNorm2d) -> Float[Tensor, " c"]:
    variance: Tensor = norm.running_var.double()  # type: ignore[union-attr]
    return norm.weight.double() / (variance + norm.eps).sqrt()


def _threshold(quantizer: RescalingIntQuant) -> Tensor:
    threshold: Tensor = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    return threshold


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.expand(weight.shape[0], *(1,) * (weight.dim() - 1)).reshape(-1)


def _over(channels: Shaped[Tensor, " o"], weight: Float[Tensor, "o ..."]) -> Tensor:
    return channels.view(-1, *(1,) * (weight.dim() - 1))
