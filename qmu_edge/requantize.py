"""Make batch-norm statistics and grids true again after training or unlearning, on retain data only.

Changed weights make old measurements (on the deleted images too) wrong. Activation steps are chosen anew by
least squared rounding error on retain images, around the learned step; batch-norm statistics are the plain
average over retain images.

All steps become powers of two on the way, because of the file. A convolution adds thousands of
products code x step x code x step; with such steps the sums are exact in float32 whatever the order of
additions, and so are the integer additions that onnxruntime makes of residual sums. The file and PyTorch then
agree to the bit. With free steps a value near the middle between two codes falls either way, and the classes
of some images in a thousand with it. For weights this is free: codes stay, and the batch-norm that follows
takes back the factor.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.data import Samples
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers import LearnedStep
from qmu_edge.models.scales import require_calibrated, weight_layers
from qmu_edge.progress import Progress

FACTORS: Final = tuple(float(f) for f in torch.logspace(-1.0, 1.0, 5, base=2.0))
STEP_IMAGES: Final = 1024
STATISTICS_IMAGES: Final = 10_000


def power_of_two(step: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The nearest power of two, as a distance.

    >>> power_of_two(torch.tensor([0.3, 0.7, 0.8, 1.1]))
    tensor([0.2500, 0.5000, 1.0000, 1.0000])
    """
    mantissa, exponent = torch.frexp(step)
    return torch.ldexp((mantissa * 2.0).round() / 2.0, exponent)


def candidates(step: Float[Tensor, ""]) -> list[Float[Tensor, ""]]:
    """Powers of two around `step`, one for each of `FACTORS`."""
    return [power_of_two(step * f) for f in FACTORS]


def rounding_errors(
    x: Float[Tensor, "..."], step: Float[Tensor, ""], low: float, high: float
) -> Float[Tensor, " f"]:
    """Sum of squared rounding errors of `x` on the grid of each of the `candidates` for `step`.

    >>> errors = rounding_errors(torch.tensor([1.0, 2.0]), torch.tensor(1.0), 0.0, 3.0)
    >>> FACTORS[int(errors.argmin())]
    1.0
    """
    errors = [((x / s).round().clamp(low, high) * s - x).square().sum() for s in candidates(step)]
    return torch.stack(errors)


def _activation_quantizers(model: nn.Module) -> Iterator[RescalingIntQuant]:
    for name, module in model.named_modules():
        if isinstance(module, RescalingIntQuant) and "act_quant" in name:
            yield module


def _step(quantizer: RescalingIntQuant) -> Tensor:
    threshold = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    step: Tensor = quantizer.scaling_impl(threshold, threshold)
    return step


def _set_step(quantizer: RescalingIntQuant, step: Tensor) -> None:
    scaling = quantizer.scaling_impl
    if isinstance(scaling, LearnedStep):
        scaling.step.copy_(step)
    else:  # Brevitas keeps the largest value, step x largest code, which is as exact as the step
        scaling.value.copy_(step * quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl()))


def round_weight_steps(model: nn.Module) -> None:
    """Make the weight steps of convolutions powers of two; integer codes stay as they are.

    A batch-norm follows every convolution that has no bias; its statistics must be measured again.
    """
    with torch.no_grad():
        for _, layer in weight_layers(model):
            if not isinstance(layer, nn.Conv2d) or layer.bias is not None:
                continue
            if layer.weight_quant.is_quant_enabled:
                _round_steps(layer.weight, layer.weight_quant.tensor_quant)


def _round_steps(weight: Float[Tensor, "o ..."], quantizer: RescalingIntQuant) -> None:
    threshold = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    old = quantizer.scaling_impl(weight, threshold)
    new = power_of_two(old)
    if isinstance(quantizer.scaling_impl, LearnedStep):
        weight.mul_(new / old)
        quantizer.scaling_impl.step.copy_(new)
    else:  # the step is the largest magnitude / largest code: put that weight where it gives `new` exactly
        magnitude = weight.abs()
        largest = magnitude == magnitude.amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        bound = new * threshold
        weight.copy_(torch.where(largest, weight.sign() * bound, (weight * (new / old)).clamp(-bound, bound)))


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
            _set_step(quantizer, candidates(_step(quantizer))[int(error.argmin())])


def _accumulate(error: Tensor) -> Any:
    def hook(quantizer: RescalingIntQuant, inputs: tuple[Tensor, ...]) -> None:
        bits = quantizer.msb_clamp_bit_width_impl()
        low, high = quantizer.int_quant.min_int(bits), quantizer.int_quant.max_int(bits)
        error.add_(rounding_errors(inputs[0], _step(quantizer), float(low), float(high)))

    return hook


def average_statistics(
    model: Classifier,
    retain: Samples,
    batch: int,
    generator: torch.Generator,
    progress: Progress,
    images: int = STATISTICS_IMAGES,
) -> None:
    """Set batch-norm statistics to the plain average over retain images, without augmentation."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's cumulative average
        norm.train()
    some = torch.randperm(len(retain), generator=generator)[:images]
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
    """Make weight steps powers of two, then re-estimate activation steps and batch-norm statistics, in place.

    Args:
        model: Calibrated; integer codes of the weights stay as they are.
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
    round_weight_steps(model)
    average_statistics(model, retain, batch, generator, progress, STEP_IMAGES)
    fit_activation_steps(model, retain, batch, generator)
    average_statistics(model, retain, batch, generator, progress)
    return model
