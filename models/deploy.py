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

    a function  of a quantized tensor is a table: a code for each code
    a product   of quantized tensors, also of matrices, and joined ones, are exact, and rounded once
    along axes  layer-norm and softmax are computed in floats from codes to codes; their sums are exact

Batch-norms of float layers are folded into weights and bias. A batch-norm that no layer precedes, average
pooling and a mean that nothing quantizes become convolutions whose codes are all one.

Mantissas of gains have 8 or 6 bits, so that sums stay exact in a runtime that multiplies gains into the
weights first and accumulates floats.

Source: the requantization of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877.
Differs: the bias is added before the scale and not after it, and weights keep their codes while their step
    moves into the scale.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float, Shaped
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qmu_edge.errors import ExportError
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.deployed import Affine, BreakTies, Grid, SharesOfCodes, Table
from qmu_edge.models.follow import ADD, follow, module_of
from qmu_edge.models.integers import alone, express
from qmu_edge.models.kernels.steps import short_mantissa
from qmu_edge.models.kinds import (
    FUNCTIONS,
    averages,
    grids,
    leads_out,
    moves,
    norms_behind,
    quantizer_grids,
    quantizes,
    weighted,
)  # fmt: skip
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers.presets import LearnedStep

LARGEST_BIAS: Final = 2.0**30  # in units of step x step: sums fit int32
LARGEST_HALF: Final = 65504.0  # of float16
EQUIVALENT: Final = 1e-3


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
    _untie(deployed)
    steps = quantizer_grids(deployed)
    express(deployed, steps, size)
    graph = follow(deployed)
    entering = input_grids(deployed, graph, grids(deployed, graph, steps))
    known = {str(node.target): grid for node, grid in entering.items()}
    norms = norms_behind(deployed, graph)
    with torch.no_grad():
        for name, layer in list(weight_layers(deployed)):
            if layer.weight_quant.is_quant_enabled:
                _replace(deployed, name, layer, norms.get(name, ""), known.get(name))
            else:
                _fold(deployed, layer, norms.get(name, ""))
    for name in _sums(deployed, graph):
        deployed.set_submodule(name, nn.Sequential(BreakTies(), deployed.get_submodule(name)))
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
        _untie(smooth)
        with torch.no_grad():  # codes as rounded in float32: near a tie, float64 may give others
            for _, layer in weight_layers(smooth):
                if layer.weight_quant.is_quant_enabled:
                    layer.weight.copy_(layer.quant_weight().value)
                    layer.weight_quant.disable_quant = True
        for module in smooth.double().modules():
            if isinstance(module, BreakTies):  # without quantizers there are no ties
                module.factor = 1.0
            if isinstance(module, Table | SharesOfCodes):  # and no codes to look up
                module.smooth = True
            proxy: Any = getattr(module, "act_quant", None)
            if proxy is not None:
                proxy.disable_quant = True
        with torch.no_grad():
            logits.append(smooth(images.double()))
    largest = float(logits[0].abs().max()) or 1.0  # a network that is dead says 0 to every image
    difference = float((logits[0] - logits[1]).abs().max()) / largest
    if not difference < EQUIVALENT:
        raise ExportError(f"the deploy form computes something else: logits differ by {difference:.2%}")


def settle(model: Classifier, size: int, *, keep_scales: bool = False) -> None:
    """Set batch-norms, scales and biases to the rounded values of the deploy form, in place.

    Afterwards the trained network computes the same function as the exported one.

    Args:
        model: Calibrated, on the CPU.
        size: Image side in pixels.
        keep_scales: Not to round the scales of weights, which matters where steps are powers of two.
    """
    graph = follow(model)
    norms, known = norms_behind(model, graph), grids(model, graph, quantizer_grids(model))
    layers = {name: layer for name, layer in weight_layers(model) if layer.weight_quant.is_quant_enabled}
    with torch.no_grad():
        for node, grid in input_grids(model, graph, known).items():
            alone_out = leads_out(model, node) or keep_scales
            if (name := str(node.target)) in layers.keys() - norms.keys() and not alone_out:
                _shorten(layers[name], grid)
    deployed = deploy(model, size)
    norms_alone = alone(model, graph, known)
    with torch.no_grad():
        for name, layer in layers.items():
            norm: Any = model.get_submodule(norms[name]) if name in norms else None
            affine: Any = deployed.get_submodule(norms.get(name, name))
            if norm is None:
                gain = affine[1].gain.double().reshape(-1)
                if layer.bias is not None:
                    layer.bias.copy_(affine[1].bias.double().reshape(-1) * gain)
            else:
                ratio = weight_scale(deployed.get_submodule(name)).double() / weight_scale(layer).double()
                _settle(norm, affine, ratio, layer.bias)
        for name in norms_alone:
            made: Any = deployed.get_submodule(name)
            _settle(model.get_submodule(name), made[1], weight_scale(made[0]).double(), None)


def _settle(norm: Any, affine: Affine, ratio: Float[Tensor, " c"], bias: Tensor | None) -> None:
    """Set a batch-norm behind a bias to what an `Affine` does behind weights of `ratio` times the step."""
    gain = affine.gain.double().reshape(-1)
    shift = affine.bias.double().reshape(-1) * gain
    gain = gain * ratio
    # where codes changed sign, so did the gain
    gain = gain * torch.where(norm.weight < 0, -1.0, 1.0) * torch.where(gain < 0, -1.0, 1.0)
    norm.weight.copy_(gain * _deviation(norm))
    mean = _mean(norm) if bias is None else _mean(norm) - bias.double()
    norm.bias.copy_(shift + mean * gain)


def _shorten(layer: Any, grid: Grid | None) -> None:
    """Give the scales of a layer without batch-norm a short mantissa, in place; its codes are kept."""
    quantizer, weight = layer.weight_quant.tensor_quant, layer.weight
    old = quantizer.scaling_impl(weight, _threshold(quantizer))
    new = short_mantissa(old, gain_bits(int(layer.weight_quant.bit_width()), grid.bits if grid else 0))
    _rescale(weight, quantizer, old, new)


def gain_bits(weight_bits: int, input_bits: int) -> int:
    """Bits of a gain's mantissa, so that sums of code x code x gain fit the 24 bits of float32.

    >>> gain_bits(4, 4), gain_bits(8, 8)
    (8, 6)
    """
    return 8 if weight_bits + input_bits <= 12 else 6


def input_grids(
    model: nn.Module, graph: fx.Graph, known: Mapping[fx.Node, Grid | None]
) -> dict[fx.Node, Grid | None]:
    """The grid of what enters each call of a layer with weights, None where that is float; see `grids`."""
    return {node: known[node.all_input_nodes[0]] for node in weighted(model, graph)}


def _sums(model: nn.Module, graph: fx.Graph) -> list[str]:
    """Names of the quantizers that round sums of tensors, and means over space."""
    found = []
    for node in graph.nodes:
        if quantizes(module_of(model, node)):
            x = node.all_input_nodes[0]
            while moves(model, x) or isinstance(module_of(model, x), FUNCTIONS):
                x = x.all_input_nodes[0]  # behind it are sizes
            if x.target is ADD or averages(model, x):
                found.append(str(node.target))
    return found


def _untie(model: nn.Module) -> None:
    """Give every layer a weight of its own, and the quantizer that belongs to it."""
    seen: set[int] = set()
    for name, layer in list(weight_layers(model)):
        if id(layer.weight) in seen:
            model.set_submodule(name, copy.deepcopy(layer))
        seen.add(id(layer.weight))


def round_steps(weight: Float[Tensor, "o ..."], quantizer: RescalingIntQuant) -> None:
    """Round the steps of a weight to powers of two, in place, and the weight to its codes, which are kept.

    The weight becomes code x step exactly: otherwise scaling could move a weight near the middle between two
    codes to the other one.
    """
    old = quantizer.scaling_impl(weight, _threshold(quantizer))
    _rescale(weight, quantizer, old, short_mantissa(old, 1))


def _rescale(weight: Float[Tensor, "o ..."], quantizer: RescalingIntQuant, old: Tensor, new: Tensor) -> None:
    """Move a weight from its steps to others, in place, code by code."""
    threshold = _threshold(quantizer)
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


def _replace(model: Classifier, name: str, layer: Any, behind: str, grid: Grid | None) -> None:
    """Give a layer a power-of-two step; an `Affine` after it has the rest of its scale and its batch-norm.

    Args:
        model: What is changed.
        name: Of the layer.
        layer: With a quantized weight.
        behind: Name of its batch-norm, "" without one.
        grid: Of what enters the layer.
    """
    weight = layer.weight
    norm: Any = model.get_submodule(behind) if behind else None
    scale = weight_scale(layer).double()
    shift = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    gain = torch.ones_like(scale)
    if norm is not None:
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
    if norm is not None and model.recipe.activation_steps == "power_of_two":
        gain = short_mantissa(gain, gain_bits(int(layer.weight_quant.bit_width()), grid.bits if grid else 0))
        if grid is None and bool((shift.abs() < LARGEST_HALF).all()):
            shift = shift.half().double()  # two bytes in a packed file; a float layer has no integer bias
    gain = gain.float().double()
    bias = shift / gain
    if grid:
        bias = ((bias / unit).round() * unit).float()  # so that every runtime has the same integer bias
    layer.bias = None
    affine = Affine(bias, gain, max(2, weight.dim()))
    if behind:
        model.set_submodule(behind, affine)
    else:
        model.set_submodule(name, nn.Sequential(layer, affine))


def _fold(model: Classifier, layer: Any, behind: str) -> None:
    """Fold the batch-norm after a float layer into its weight and bias."""
    if behind:
        norm: Any = model.get_submodule(behind)
        statistics: tuple[Any, Any] = norm.running_mean, norm.running_var
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, *statistics, norm.eps, norm.weight, norm.bias
        )
        model.set_submodule(behind, nn.Identity())


def _mean(norm: Any) -> Float[Tensor, " c"]:
    double: Tensor = norm.running_mean.double()
    return double


def _deviation(norm: Any) -> Float[Tensor, " c"]:
    deviation: Tensor = (norm.running_var.double() + norm.eps).sqrt()
    return deviation


def _threshold(quantizer: RescalingIntQuant) -> Tensor:
    threshold: Tensor = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    return threshold


def _over(channels: Shaped[Tensor, " o"], weight: Float[Tensor, "o ..."]) -> Tensor:
    return channels.view(-1, *(1,) * (weight.dim() - 1))
