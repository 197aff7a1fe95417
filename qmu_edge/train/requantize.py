"""Re-estimate batch-norm statistics and activation steps after training or unlearning, on retain data only.

Old statistics do not fit the changed weights, and depend on the deleted images. Activation steps are chosen
by least squared rounding error on retain images, among candidates around the learned step; batch-norm
statistics are the unweighted average over retain images.

Activation steps become powers of two, unless the recipe says otherwise, and batch-norms take values that
integer kernels can represent, so that the exported file and PyTorch agree to the bit (see
`qmu_edge.models.deploy`).
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from brevitas.core.quant import RescalingIntQuant
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import require_calibrated
from qmu_edge.models.deploy import settle
from qmu_edge.models.kernels.choice import passes_for
from qmu_edge.models.kernels.fused import using
from qmu_edge.models.kernels.steps import short_mantissa
from qmu_edge.models.kinds import NORMS
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quant_layers import quickly
from qmu_edge.models.quantizers.presets import LearnedStep
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.train.batches import Samples, steps_per_epoch

FACTORS: Final = tuple(float(f) for f in torch.logspace(-1.0, 1.0, 5, base=2.0))
# So many images tell as much as all of them: two draws of 10,000 differ as two of 2,048 do (train/README.md).
FIRST_IMAGES: Final = 512  # statistics under which steps are chosen
STEP_IMAGES: Final = 256
STATISTICS_IMAGES: Final = 2048
BATCH: Final = 256  # statistics are averaged over batches, so large ones say more


def candidates(step: Float[Tensor, ""], rule: str) -> list[Float[Tensor, ""]]:
    """Multiples of `step` by each of `FACTORS`; rounded to powers of two where `rule` is "power_of_two"."""
    around = [step * f for f in FACTORS]
    return [short_mantissa(s, 1) for s in around] if rule == "power_of_two" else around


def rounding_errors(
    x: Float[Tensor, "..."], steps: list[Float[Tensor, ""]], low: float, high: float
) -> Float[Tensor, " s"]:
    """Sum of squared rounding errors of `x` on the grid of each of `steps`.

    >>> steps = [torch.tensor(0.5), torch.tensor(1.0)]
    >>> rounding_errors(torch.tensor([1.0, 2.0]), steps, 0.0, 3.0)
    tensor([0.2500, 0.0000])
    """
    return torch.stack([((x / s).round().clamp(low, high) * s - x).square().sum() for s in steps])


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


def fit_activation_steps(model: Classifier, retain: Samples, batch: int, generator: torch.Generator) -> None:
    """Set each activation step to the candidate with the smallest rounding error on retain images."""
    quantizers = list(_activation_quantizers(model))
    errors = [torch.zeros(len(FACTORS), device=retain.device) for _ in quantizers]
    rule = model.recipe.activation_steps
    handles = [
        q.register_forward_pre_hook(_accumulate(error, rule))
        for q, error in zip(quantizers, errors, strict=True)
    ]
    some = torch.randperm(len(retain), generator=generator)[:STEP_IMAGES]
    model.eval()
    try:
        with torch.no_grad(), quickly(model, activations=False):
            for b in retain.take(some).batches(batch):
                model(b.images)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for quantizer, error in zip(quantizers, errors, strict=True):
            _set_step(quantizer, candidates(_step(quantizer), rule)[int(error.argmin())])


def _accumulate(error: Tensor, rule: str) -> Any:
    def hook(quantizer: RescalingIntQuant, inputs: tuple[Tensor, ...]) -> None:
        bits = quantizer.msb_clamp_bit_width_impl()
        low, high = quantizer.int_quant.min_int(bits), quantizer.int_quant.max_int(bits)
        error.add_(rounding_errors(inputs[0], candidates(_step(quantizer), rule), float(low), float(high)))

    return hook


def average_statistics(
    model: Classifier,
    retain: Samples,
    batch: int,
    generator: torch.Generator,
    progress: Progress,
    images: int,
) -> None:
    """Set batch-norm statistics to the unweighted average over retain images, without augmentation."""
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's cumulative average
        norm.train()
    some = torch.randperm(len(retain), generator=generator)[:images]
    batches = steps_per_epoch(len(some), batch)
    batch = len(some) // batches  # of even sizes: a small last batch would count as much as a full one
    some = some[: batches * batch]
    progress.start("re-estimating statistics", len(some))
    passes, _ = passes_for(retain.device, batches)
    with torch.no_grad(), quickly(model), using(passes):
        for b in retain.take(some).batches(batch):
            model(b.images)
            progress.advance(len(b))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    progress.finish()


def requantize(
    model: Classifier, retain: Samples, *, batch: int, seed: int, progress: Progress
) -> Classifier:
    """Re-estimate activation steps and batch-norm statistics, then `deploy.settle` the network, in place.

    Args:
        model: Calibrated; integer codes of the weights do not change.
        retain: Only these images are read: never forget, validation or test images.
        batch: Images per step of training; forward passes alone fit four times as many into the same memory.
        seed: Seed for drawing retain images where there are more than needed.
        progress: Receives the number of processed images.

    Raises:
        UnlearnError: No retain image, or the network was never calibrated.
    """
    retain.require_some("retain")
    require_calibrated(model)
    generator, several = torch.Generator().manual_seed(seed), min(BATCH, 4 * batch)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with kept_memory(retain.device):
        average_statistics(model, retain, several, generator, progress, FIRST_IMAGES)
        fit_activation_steps(model, retain, several, generator)
        average_statistics(model, retain, several, generator, progress, STATISTICS_IMAGES)
    settle(model, retain.pool.shape[-1])
    return model
