"""Calibrate and check the quantizers of a network, and name its parameter groups.

Activation grids are set by `calibrate` only, on images that the caller chooses, never implicitly by a forward
pass; `require_calibrated` refuses a network whose grids are incomplete.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
from brevitas.nn.mixin import QuantWeightMixin
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.kernels.fused import FusedIntQuant
from qmu_edge.models.kinds import NORMS, WEIGHTED
from qmu_edge.models.quantizers.presets import LearnedStep

Group = Literal["weights", "bias", "bn_affine", "bn_stats", "weight_scale", "activation_scale", "head"]

GROUPS: Final[tuple[Group, ...]] = (
    "weights",
    "bias",
    "bn_affine",
    "bn_stats",
    "weight_scale",
    "activation_scale",
    "head",
)


def weight_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer with a quantizable weight, in forward order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantWeightMixin):
            yield name, module


@torch.no_grad()
def quantized_weights(model: nn.Module) -> dict[str, Tensor]:
    """The dequantized weight of every weight layer, by parameter name; of a float layer the weight itself."""
    found = {}
    for name, layer in weight_layers(model):
        weight = layer.quant_weight()
        found[f"{name}.weight"] = (weight if isinstance(weight, Tensor) else weight.value).clone()
    return found


def _steps(model: nn.Module, proxy: str) -> Iterator[tuple[str, LearnedStep]]:
    for name, module in model.named_modules():
        if isinstance(module, LearnedStep) and proxy in name:
            yield name, module


def initialise_weight_steps(model: nn.Module) -> None:
    """Set every learned weight step from the current weights."""
    for _, layer in weight_layers(model):
        for _, step in _steps(layer, "weight_quant"):
            step.restart()
            step.observe(layer.weight.detach())


@contextmanager
def clamp_through(model: nn.Module) -> Iterator[None]:
    """Pass gradients to saturated weights as well, those outside the clipping range.

    This holds in training mode only, where weights take the fused pass; forward values do not change.
    Gradients of saturated activations remain 0.
    """
    quantizers = [
        m for _, layer in weight_layers(model) for m in layer.weight_quant.modules()
        if isinstance(m, FusedIntQuant)
    ]  # fmt: skip
    for quantizer in quantizers:
        quantizer.clamp_through = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.clamp_through = False


def calibrate(
    model: nn.Module, batches: Iterable[Float[Tensor, "_ c h w"]], part: nn.Module | None = None
) -> None:
    """Set every activation grid from images, with batch statistics in batch-norm; weights do not change.

    Learned steps are averaged over the batches. Brevitas' own statistics need `collect_stats_steps` forward
    passes in training mode: give as many batches as `calibration_batches` says.

    Args:
        model: On the device of the batches; its mode is restored, its batch-norm statistics are updated.
        batches: Float images 0..1.
        part: Submodule whose grids are set and whose statistics are updated; None for all of `model`.
    """
    was_training = model.training
    part = model if part is None else part
    steps = [step for _, step in _steps(part, "act_quant")]
    for step in steps:
        step.restart()
        step.observing = True
    model.eval()
    part.train()
    try:
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for step in steps:
            step.observing = False
        model.train(was_training)
    for module in part.modules():
        if isinstance(module, ParameterFromRuntimeStatsScaling):
            if module.counter == module.collect_stats_steps:
                module.init_scale()  # otherwise the next training step would create the parameter


def calibration_batches(model: nn.Module) -> int:
    """Number of batches that `calibrate` needs for the quantizers of this network."""
    waits = [
        m.collect_stats_steps for m in model.modules() if isinstance(m, ParameterFromRuntimeStatsScaling)
    ]
    return max(waits, default=4)


def uncalibrated(model: nn.Module) -> list[str]:
    """Names of quantizers whose step was never set, or whose statistics are incomplete."""
    names = [
        n for n, m in model.named_modules() if isinstance(m, LearnedStep) and not m.step.isfinite().all()
    ]
    for name, module in model.named_modules():
        if isinstance(module, ParameterFromRuntimeStatsScaling):
            if module.counter < module.collect_stats_steps:
                names.append(name)
    return names


def require_calibrated(model: nn.Module) -> None:
    """Refuse a network whose activation grids are incomplete.

    Raises:
        UnlearnError: There is such a quantizer; the message names the first one and their number.
    """
    names = uncalibrated(model)
    if names:
        raise UnlearnError(
            f"activation statistics are incomplete: {len(names)} quantizers, the first {names[0]}; "
            "calibrate or train the network first"
        )


def train_only(model: nn.Module, groups: Collection[Group]) -> None:
    """Freeze all parameters but those of these groups."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_group(name, model) in groups)


def parameter_group(name: str, model: nn.Module) -> Group:
    """The group of a parameter, or of a batch-norm buffer, of a quantized network."""
    if "tensor_quant" in name:
        return "weight_scale" if "weight_quant" in name else "activation_scale"
    if name.startswith("head."):
        return "head"
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, (*NORMS, nn.LayerNorm)):
        return "bn_stats" if "running_" in name or name.endswith("num_batches_tracked") else "bn_affine"
    return "weights" if isinstance(owner, WEIGHTED) and name.endswith("weight") else "bias"


def penalised(name: str, model: nn.Module) -> bool:
    """Whether training puts an L2 penalty on a quantizer's parameter (PACT's and DSQ's have one)."""
    return getattr(model.get_submodule(name.rpartition(".")[0]), "penalised", False)
