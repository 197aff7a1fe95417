"""Make batch-norm statistics and activation grids true again after unlearning, on retain data only.

Unlearning moves weights, so what was measured on the old network (and on the deleted images) no longer
holds. Activation steps are chosen anew by least squared rounding error on retain images, in a range around
the learned step; batch-norm statistics are the plain average over retain images.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.data import Samples
from qmu_edge.models.layers import Classifier
from qmu_edge.models.scales import require_calibrated
from qmu_edge.progress import Progress

FACTORS: Final = tuple(float(f) for f in torch.logspace(-0.5, 0.5, 17, base=2.0))
STEP_IMAGES: Final = 1024
STATISTICS_IMAGES: Final = 10_000


def rounding_errors(
    x: Float[Tensor, "..."], step: Float[Tensor, ""], low: float, high: float
) -> Float[Tensor, " f"]:
    """Sum of squared rounding errors of `x` on the grid of `step * factor`, for each of `FACTORS`.

    >>> errors = rounding_errors(torch.tensor([1.0, 2.0]), torch.tensor(1.0), 0.0, 3.0)
    >>> FACTORS[int(errors.argmin())]
    1.0
    """
    candidates = [step * f for f in FACTORS]
    errors = [((x / s).round().clamp(low, high) * s - x).square().sum() for s in candidates]
    return torch.stack(errors)


def _activation_quantizers(model: nn.Module) -> Iterator[RescalingIntQuant]:
    for name, module in model.named_modules():
        if isinstance(module, RescalingIntQuant) and "act_quant" in name:
            yield module


def _scale_parameter(quantizer: RescalingIntQuant) -> nn.Parameter:
    scaling = quantizer.scaling_impl
    return scaling.step if hasattr(scaling, "step") else scaling.value  # type: ignore[no-any-return]


def fit_activation_steps(model: Classifier, retain: Samples, batch: int, generator: torch.Generator) -> None:
    """Set each activation step to the candidate with the least rounding error on retain images."""
    quantizers = list(_activation_quantizers(model))
    errors = [torch.zeros(len(FACTORS), device=retain.device) for _ in quantizers]
    handles = [
        q.register_forward_pre_hook(_accumulate(error)) for q, error in zip(quantizers, errors, strict=True)
    ]
    some = torch.randperm(len(retain), generator=generator)[:STEP_IMAGES]
    model.eval()
    try:
        with torch.no_grad():
            for b in retain.take(some).batches(batch):
                model(b.images)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for quantizer, error in zip(quantizers, errors, strict=True):
            _scale_parameter(quantizer).mul_(FACTORS[int(error.argmin())])


def _accumulate(error: Tensor) -> Any:
    def hook(quantizer: RescalingIntQuant, inputs: tuple[Tensor, ...]) -> None:
        bits = quantizer.msb_clamp_bit_width_impl()
        step = quantizer.scaling_impl(inputs[0], quantizer.int_scaling_impl(bits))
        low, high = quantizer.int_quant.min_int(bits), quantizer.int_quant.max_int(bits)
        error.add_(rounding_errors(inputs[0], step, float(low), float(high)))

    return hook


def average_statistics(
    model: Classifier, retain: Samples, batch: int, generator: torch.Generator, progress: Progress
) -> None:
    """Set batch-norm statistics to the plain average over retain images, without augmentation."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's cumulative average
        norm.train()
    some = torch.randperm(len(retain), generator=generator)[:STATISTICS_IMAGES]
    if len(some) > batch and len(some) % batch:
        some = some[: len(some) // batch * batch]  # a small last batch would count as much as a full one
    progress.start("re-estimating statistics", len(some))
    with torch.no_grad():
        for b in retain.take(some).batches(batch):
            model(b.images)
            progress.advance(len(b.labels))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    progress.finish()


def requantize(
    model: Classifier, retain: Samples, *, batch: int, seed: int, progress: Progress
) -> Classifier:
    """Re-estimate activation steps, then batch-norm statistics, in place.

    Args:
        model: Calibrated; weights and weight scales stay as they are.
        retain: Only these images are read: never forget, validation or test images.
        batch: Images per forward pass.
        seed: Draws which retain images are used where there are more than needed.
        progress: Where to count.

    Raises:
        UnlearnError: No retain image, or the network was never calibrated.
    """
    retain.require_some("retain")
    require_calibrated(model)
    generator = torch.Generator().manual_seed(seed)
    fit_activation_steps(model, retain, batch, generator)
    average_statistics(model, retain, batch, generator, progress)
    return model
