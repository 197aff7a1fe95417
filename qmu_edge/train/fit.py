"""Quantization-aware training with resumable state (`fit`), and inference (`predict`)."""

import copy
import hashlib
import math
import time
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from qmu_edge.io.files import write_atomic
from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import calibrate, calibration_batches
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.train.average import Average
from qmu_edge.train.batches import Augment, Samples, steps_per_epoch
from qmu_edge.train.difficulty import Difficulty
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.train.objective import mixed, objective
from qmu_edge.train.teacher import TEACHER, state_of, untaught

SAVE_EVERY_S: Final = 20.0
MODEL: Final = "model."  # what its tensors are called in the state of a run


def fit(
    model: Classifier,
    samples: Samples,
    recipe: TrainRecipe,
    augment: Augment,
    *,
    progress: Progress,
    label: str = "training",
    resume: Path | None = None,
) -> Classifier:
    """Train a freshly built network, from calibration to the end of its schedule.

    How hard each image was early on is noted in the network's `difficulty`, where images are not mixed.

    Args:
        model: On the device of the samples.
        samples: Training images.
        recipe: Hyperparameters of the run.
        augment: Augmentation of training images.
        progress: Receives the number of processed images.
        label: Name of the run in the progress output.
        resume: File in which the state is stored between epochs; removed at the end. A run continues from a
            state of the same run; any other content is ignored.

    Returns:
        The same model.

    Raises:
        UnlearnError: The set is empty, or the loss is not finite.
    """
    trained = _trained(model, samples, recipe, augment, progress=progress, label=label, resume=resume)
    if resume is not None:
        resume.unlink(missing_ok=True)
    return trained


def _trained(
    model: Classifier, samples: Samples, recipe: TrainRecipe, augment: Augment, *, progress: Progress,
    label: str, resume: Path | None,
) -> Classifier:  # fmt: skip
    """`fit`, which leaves its last state."""
    samples.require_some("training")
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = steps_per_epoch(len(samples), recipe.batch)
    settings = Optimization(
        epochs=recipe.epochs, lr=recipe.lr, optimizer=recipe.optimizer, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, scale_lr=recipe.step_lr, warmup=recipe.warmup,
        precision=recipe.precision,
    )  # fmt: skip
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _identity(samples, recipe, augment)
    teacher = untaught(model, recipe.seed) if recipe.distillation else None
    state = _restore(model, teacher, generator, run, len(samples), resume)
    if teacher is not None:
        if not state:
            alone = recipe.model_copy(update={"distillation": 0.0})
            label_of = f"{label}: the teacher"
            _trained(teacher, samples, alone, augment, progress=progress, label=label_of, resume=resume)
            if resume is not None:
                nothing = {"difficulty": torch.zeros(len(samples)), **state_of(teacher)}
                _save(nothing, generator, run, (0, 0), resume)
        teacher.eval()
        torch.manual_seed(recipe.seed)  # for dropout: the same, whether the teacher was trained now or before
    descent = Descent(model, settings, recipe.epochs * per_epoch, progress)
    progress.start(label, recipe.epochs * len(samples))
    first = _continue(descent, state) if state else 0
    early = Difficulty(samples, recipe.epochs)
    if state:
        early.sums.copy_(state["difficulty"])
    if first == 0:
        calibrate_on(model, samples, recipe.batch, generator, augment)
    average = Average(descent, recipe.average, state if first else {}) if recipe.average else None
    saved = time.monotonic()
    with kept_memory(samples.device):
        for epoch in range(first, recipe.epochs):
            model.train()
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # for dropout
            noting = early if epoch in early.epochs else None
            loss = objective(model, recipe, descent.right, noting, teacher)
            batches = samples.batches(recipe.batch, generator, augment)
            if recipe.mixup:
                descent.epoch(loss, mixed(batches, recipe.mixup, generator))
            else:
                descent.epoch(loss, batches)
            if resume is not None and time.monotonic() - saved > SAVE_EVERY_S:
                noted = {"difficulty": early.sums, **_state(descent)}
                noted |= average.state() if average else {}
                noted |= state_of(teacher) if teacher else {}
                _save(noted, generator, run, (epoch + 1, descent.schedule.last_epoch), resume)
                saved = time.monotonic()
        progress.finish()
        if average:
            average.release(model, samples, recipe.batch, generator)
    model.difficulty = None if recipe.mixup else early.noted()
    return model.eval()


def calibrate_on(
    model: nn.Module,
    samples: Samples,
    batch: int,
    generator: torch.Generator,
    augment: Augment,
    part: nn.Module | None = None,
) -> None:
    """Calibrate `model`, or its submodule `part`, on as many shuffled batches as its quantizers need."""
    wanted = calibration_batches(model)

    def images() -> "list[Tensor]":
        found: list[Tensor] = []
        while len(found) < wanted:
            for item in samples.batches(batch, generator, augment):
                found.append(item.images)
                if len(found) == wanted:
                    break
        return found

    calibrate(model, images(), part)


def _identity(samples: Samples, recipe: TrainRecipe, augment: Augment) -> Tensor:
    """SHA-256 of the inputs of a run beside its network (data, recipe, augmentation), as a tensor."""
    rows = (samples.index.cpu().numpy().tobytes(), samples.labels.cpu().numpy().tobytes())
    digest = hashlib.sha256(b"".join([f"{recipe!r}{augment!r}".encode(), *rows])).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _state(descent: Descent) -> dict[str, Tensor]:
    """What a run that goes on needs of its network and its optimizer."""
    tensors = {f"{MODEL}{k}": v.contiguous() for k, v in descent.model.state_dict().items()}
    for number, parameter in enumerate(descent.parameters):
        for name, value in descent.optimizer.state[parameter].items():
            if value is not None:  # SGD's momentum before the first step
                tensors[f"optimizer.{number}.{name}"] = value.contiguous()
    return tensors


def _save(
    noted: dict[str, Tensor], generator: torch.Generator, run: Tensor, at: tuple[int, int], path: Path
) -> None:
    """Store a state `at` an epoch and a step; before the first epoch there is a teacher alone."""
    beside = {"generator": generator.get_state(), "epoch": torch.tensor(at), "run": run}
    data = save_tensors({**noted, **beside})
    write_atomic(path, hashlib.sha256(data).digest() + data, mode=0o600)


def _restore(
    model: Classifier,
    teacher: Classifier | None,
    generator: torch.Generator,
    run: Tensor,
    images: int,
    path: Path | None,
) -> dict[str, Tensor]:
    """Load a saved state of the same run into its networks and `generator`; returns it, or {} without one.

    This has to come before the optimizer: Brevitas creates new scale parameters when it loads a state.
    """
    if path is None or not path.is_file():
        return {}
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return {}
    try:
        tensors = load_tensors(stored[32:])
        if not torch.equal(tensors["run"], run) or tensors["epoch"].shape != (2,):
            return {}
        networks = {MODEL: model} if tensors["epoch"][0] else {}  # else it is not calibrated yet
        networks |= {TEACHER: teacher} if teacher is not None else {}
        weights = {
            prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            for prefix in networks
        }
        # Loading marks Brevitas' statistics as collected, even if it fails: so it is tried on a copy first.
        for prefix, network in networks.items():
            copy.deepcopy(network).load_state_dict(weights[prefix])
        if tensors["difficulty"].shape != (images,):
            return {}
        generator.set_state(tensors["generator"])
    except (SafetensorError, KeyError, RuntimeError, ValueError, TypeError):
        return {}  # a damaged state, or one of another network: start from the beginning
    for prefix, network in networks.items():
        device = next(network.parameters()).device
        network.load_state_dict(weights[prefix])
        network.to(device)  # the new parameters are on the CPU
    return tensors


def _continue(descent: Descent, state: dict[str, Tensor]) -> int:
    """Load optimizer and schedule from a saved state into `descent`; returns the next epoch."""
    epoch, step = state["epoch"].tolist()
    for number, parameter in enumerate(descent.parameters):
        for key, value in state.items():
            if key.startswith(f"optimizer.{number}."):
                name = key.rpartition(".")[2]
                descent.optimizer.state[parameter][name] = _like(parameter, value)
    descent.schedule.last_epoch = step
    for group, base in zip(descent.optimizer.param_groups, descent.schedule.base_lrs, strict=True):
        group["lr"] = base * descent.schedule.lr_lambdas[0](step)
    if epoch:
        descent.progress.note(f"continuing after epoch {epoch}")
    return int(epoch)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """State of an optimizer beside its parameter: fused kernels require the parameter's memory layout."""
    if value.shape != parameter.shape:  # a count of steps
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(value)


def predict(model: nn.Module, samples: Samples, batch: int = 512) -> Float[Tensor, "n k"]:
    """Logits of all images in order, in float32 and evaluation mode, on the host.

    The mode of every module is restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.inference_mode():
        logits = [model(b.images).float().cpu() for b in samples.batches(batch)]
    for module, training in modes:
        module.training = training
    return torch.cat(logits)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Share of images whose largest logit is their label; NaN for an empty set."""
    if len(samples) == 0:
        return math.nan
    predicted = predict(model, samples).argmax(1)
    return float((predicted == samples.labels.cpu()).double().mean())
