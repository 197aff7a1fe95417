"""Quantization-aware training, and the optimizer loop that unlearning methods share.

`Descent` is one SGD run: parameter groups, mixed precision, cosine schedule, a check that the loss stays
finite. `fit` trains a network with it and can continue after a kill; `predict` computes logits.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from qmu_edge.data import Augment, Samples
from qmu_edge.errors import UnlearnError
from qmu_edge.models.scales import calibrate, calibration_batches, parameter_group
from qmu_edge.progress import Progress
from qmu_edge.recipe import TrainRecipe
from qmu_edge.store import write_atomic

SAVE_EVERY_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgd:
    """Hyperparameters of one SGD run.

    Attributes:
        epochs: Passes over the data.
        batch: Images per step.
        lr: Learning rate at the top of the schedule.
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights only.
        scale_lr: Learning rate of quantizer scales relative to `lr`; 0 freezes them.
        warmup: Epochs of linear warm-up before the cosine.
        precision: "float32", "bfloat16" or "auto".
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scale_lr: float = 0.0
    warmup: float = 0.0
    precision: str = "auto"


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear over `warmup` steps, then half a cosine to zero.

    >>> [round(cosine(s, 8, 2), 2) for s in (0, 1, 2, 5, 8)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def mixed_precision(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: asked for, or "auto" on hardware with units for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())


class Descent:
    """One SGD run over a model: call `step` once per batch."""

    def __init__(self, model: nn.Module, sgd: Sgd, steps: int, progress: Progress) -> None:
        """Prepare the optimizer for `steps` steps of `sgd` on the parameters of `model`."""
        self.model, self.progress = model, progress
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.SGD(_parameter_groups(model, sgd), lr=sgd.lr, momentum=sgd.momentum)
        warmup = round(sgd.warmup * steps / max(1, sgd.epochs))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: cosine(step, steps, warmup)
        )
        self.mixed = mixed_precision(sgd.precision, self.device)
        self._loss_sum = torch.zeros((), device=self.device)

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed)

    def step(self, loss: Callable[[], Tensor], images: int) -> None:
        """One step down `loss`, which is computed in mixed precision where that is on."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self._loss_sum += value.detach()
        self.progress.advance(images)

    def require_finite(self) -> None:
        """Check the losses since the last call at once, so that a step never waits for the host.

        Raises:
            UnlearnError: A loss was NaN or infinite.
        """
        if not bool(self._loss_sum.isfinite()):
            raise UnlearnError("the loss is not finite: the run diverged; try a smaller learning rate")
        self._loss_sum.zero_()


def _parameter_groups(model: nn.Module, sgd: Sgd) -> list[dict[str, object]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    scales: list[Tensor] = []
    for name, parameter in model.named_parameters():
        group = parameter_group(name, model)
        if group in ("weight_scale", "activation_scale"):
            parameter.requires_grad_(sgd.scale_lr > 0)
            if sgd.scale_lr > 0:
                scales.append(parameter)
        else:
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": sgd.weight_decay},
        {"params": plain},
    ]
    if scales:
        groups.append({"params": scales, "lr": sgd.lr * sgd.scale_lr})
    return groups


def steps_per_epoch(images: int, batch: int) -> int:
    """Batches of one pass, the last one possibly smaller.

    >>> steps_per_epoch(257, 128)
    3
    """
    return -(-images // batch)


def fit(
    model: nn.Module,
    samples: Samples,
    recipe: TrainRecipe,
    augment: Augment,
    *,
    progress: Progress,
    label: str = "training",
    resume: Path | None = None,
) -> nn.Module:
    """Train a freshly built network, from calibration to the end of its schedule.

    Args:
        model: On the device of the samples.
        samples: Training images.
        recipe: Every number of the run.
        augment: Augmentation of training images.
        progress: Where to count.
        label: What to call it there.
        resume: File that keeps the state between epochs; removed at the end. A state of the same run
            is continued, anything else in it is ignored.

    Returns:
        The same model.

    Raises:
        UnlearnError: The set is empty, or the loss is not finite.
    """
    samples.require_some("training")
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = steps_per_epoch(len(samples), recipe.batch)
    sgd = Sgd(
        epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, scale_lr=recipe.step_lr, warmup=recipe.warmup,
        precision=recipe.precision,
    )  # fmt: skip
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _identity(samples, recipe, augment)
    state = _restore(model, generator, run, resume)
    descent = Descent(model, sgd, recipe.epochs * per_epoch, progress)
    progress.start(label, recipe.epochs * len(samples))
    first = _continue(descent, state) if state else 0
    if first == 0:
        _calibrate_on(model, samples, recipe.batch, generator, augment)
    saved = time.monotonic()
    for epoch in range(first, recipe.epochs):
        model.train()
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # for dropout
        for batch in samples.batches(recipe.batch, generator, augment):
            descent.step(lambda b=batch: F.cross_entropy(model(b.images), b.labels), len(batch.labels))  # type: ignore[misc]
        descent.require_finite()
        if resume is not None and time.monotonic() - saved > SAVE_EVERY_S:
            _save(descent, generator, run, epoch + 1, resume)
            saved = time.monotonic()
    progress.finish()
    if resume is not None:
        resume.unlink(missing_ok=True)
    return model.eval()


def _calibrate_on(
    model: nn.Module, samples: Samples, batch: int, generator: torch.Generator, augment: Augment
) -> None:
    wanted = calibration_batches(model)

    def images() -> "list[Tensor]":
        found: list[Tensor] = []
        while len(found) < wanted:
            for item in samples.batches(batch, generator, augment):
                found.append(item.images)
                if len(found) == wanted:
                    break
        return found

    calibrate(model, images())


def _identity(samples: Samples, recipe: TrainRecipe, augment: Augment) -> Tensor:
    """SHA-256 of what a run is made from, beside its network, as a tensor."""
    rows = (samples.index.cpu().numpy().tobytes(), samples.labels.cpu().numpy().tobytes())
    digest = hashlib.sha256(b"".join([f"{recipe!r}{augment!r}".encode(), *rows])).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _save(descent: Descent, generator: torch.Generator, run: Tensor, epoch: int, path: Path) -> None:
    tensors = {f"model.{k}": v.contiguous() for k, v in descent.model.state_dict().items()}
    for number, parameter in enumerate(_optimized(descent)):
        momentum = descent.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{number}"] = momentum.contiguous()
    tensors["generator"] = generator.get_state()
    tensors["epoch"] = torch.tensor([epoch, descent.schedule.last_epoch])
    tensors["run"] = run
    data = save_tensors(tensors)
    write_atomic(path, hashlib.sha256(data).digest() + data, mode=0o600)


def _restore(
    model: nn.Module, generator: torch.Generator, run: Tensor, path: Path | None
) -> dict[str, Tensor]:
    """Put a saved state of the same run into `model` and `generator`; all of it, empty without one.

    Before there is an optimizer: Brevitas makes new scale parameters when it loads a state.
    """
    if path is None or not path.is_file():
        return {}
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return {}
    try:
        tensors = load_tensors(stored[32:])
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        # Loading marks Brevitas' statistics as collected, so a copy has to show that it works.
        copy.deepcopy(model).load_state_dict(weights)
        if not torch.equal(tensors["run"], run) or tensors["epoch"].shape != (2,):
            return {}
        generator.set_state(tensors["generator"])
    except (SafetensorError, KeyError, RuntimeError, ValueError, TypeError):
        return {}  # a damaged or foreign state is worth nothing: begin again
    device = next(model.parameters()).device
    model.load_state_dict(weights)
    model.to(device)  # the new parameters are on the CPU
    return tensors


def _continue(descent: Descent, state: dict[str, Tensor]) -> int:
    """Put the rest of a saved state into `descent`; the epoch to go on with."""
    epoch, step = state["epoch"].tolist()
    for number, parameter in enumerate(_optimized(descent)):
        if f"momentum.{number}" in state:
            momentum = state[f"momentum.{number}"].to(parameter.device)
            descent.optimizer.state[parameter]["momentum_buffer"] = momentum
    descent.schedule.last_epoch = step
    for group, base in zip(descent.optimizer.param_groups, descent.schedule.base_lrs, strict=True):
        group["lr"] = base * descent.schedule.lr_lambdas[0](step)
    descent.progress.note(f"continuing after epoch {epoch}")
    return int(epoch)


def _optimized(descent: Descent) -> list[Tensor]:
    return [p for group in descent.optimizer.param_groups for p in group["params"]]


def predict(model: nn.Module, samples: Samples, batch: int = 512) -> Float[Tensor, "n k"]:
    """Logits of all images in order, in float32 and evaluation mode, on the host.

    The model's mode is restored.
    """
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [model(b.images).float().cpu() for b in samples.batches(batch)]
    model.train(was_training)
    return torch.cat(logits)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Share of images whose largest logit is their label; NaN for an empty set."""
    if len(samples) == 0:
        return math.nan
    predicted = predict(model, samples).argmax(1)
    return float((predicted == samples.labels.cpu()).double().mean())
