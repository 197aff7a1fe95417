"""The optimizer loop that training and unlearning methods share.

`Descent` is one run: parameter groups, mixed precision, schedule, and a check that the loss is finite. A loss
is a function of a batch. Most methods only call `epoch`, which takes an optimizer step for each batch.
Methods that combine or change gradients compute one as a flat vector with `gradient` and take a step along it
with `follow`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.blocks import spare
from qmu_edge.models.calibration import Group, parameter_group, penalised
from qmu_edge.models.kernels.choice import passes_for
from qmu_edge.models.kernels.fused import using
from qmu_edge.runtime.memory import PassState, ran_out
from qmu_edge.runtime.parallel import average, processes, shared_batches
from qmu_edge.runtime.throughput import timed
from qmu_edge.train.batches import Batch, Pair

Schedule = Literal["cosine", "constant", "exponential"]
T = TypeVar("T")
B = TypeVar("B")  # argument of a loss
Counted = TypeVar("Counted", bound=Sized)  # the same, with a length that is the number of images


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """Hyperparameters of one run. By default there is no momentum, no decay, no warm-up and no clipping.

    Attributes:
        epochs: Passes over the data.
        lr: Learning rate at the top of the schedule.
        optimizer: "sgd", "adam" or "adamw".
        momentum: Of SGD.
        weight_decay: On convolution and classifier weights, and on what a quantizer penalises.
        scale_lr: Learning rate of quantizer scales relative to `lr`; 0 freezes them.
        schedule: "cosine" to zero, "constant", or "exponential" down to `final`.
        warmup: Epochs of linear warm-up before the cosine.
        final: Last learning rate relative to `lr` of the exponential schedule.
        clip_norm: Largest norm of a gradient, larger ones are scaled down; 0 for no limit.
        precision: "float32", "bfloat16" or "auto".
    """

    epochs: int = 10
    lr: float = 0.01
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    scale_lr: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    final: float = 1.0
    clip_norm: float = 0.0
    precision: str = "auto"

    @classmethod
    def of(cls, params: Any, **settings: Any) -> "Optimization":
        """The hyperparameters that `params` has under the same names, and `settings`.

        Args:
            params: A dataclass, such as the `Params` of a method.
            **settings: Of those that `params` does not have.
        """
        shared = {f.name for f in fields(cls)} & {f.name for f in fields(params)}
        return cls(**{name: getattr(params, name) for name in shared}, **settings)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear over `warmup` steps, then half a cosine to zero.

    >>> [round(cosine(s, 8, 2), 2) for s in (0, 1, 2, 5, 8)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def exponential(step: int, steps: int, final: float) -> float:
    """Factor of the learning rate: from 1 at the first step to `final` at the last.

    >>> [round(exponential(s, 5, 0.01), 4) for s in (0, 2, 4)]
    [1.0, 0.1, 0.01]
    """
    return float(final ** (step / max(1, steps - 1)))


def mixed_precision(precision: str, model: nn.Module) -> bool:
    """Whether to compute in bfloat16: where `precision` says so, or is "auto" and bfloat16 is faster.

    CPUs with vector but without matrix instructions for bfloat16 are a third faster in ordinary convolutions,
    and as much slower in grouped ones.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if next(model.parameters()).device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.cpu._is_amx_tile_supported():
        return True
    grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    return bool(torch.cpu._is_avx512_bf16_supported()) and not grouped


class Span(NamedTuple):
    """Name, group and indices of a parameter in a flat gradient."""

    name: str
    group: Group
    indices: slice


class Descent:
    """One run over the parameters of a model that require a gradient.

    Attributes:
        model: The network that is trained.
        parameters: The parameters that are optimized, in the order of flat gradients.
        spans: Name, group and indices of each of them in a flat gradient.
        optimizer, schedule: As in PyTorch.
        progress: Receives the number of processed images.
        passes: Implementation of the quantizers, see `choice.passes_for`.
        right: How many images of an epoch were recognised, where its loss counts them.
    """

    def __init__(self, model: nn.Module, settings: Optimization, steps: int, progress: Progress) -> None:
        """Set up a run of `steps` steps; freezes quantizer scales unless `settings.scale_lr` is given."""
        self.model, self.progress = model, progress
        self.device = next(model.parameters()).device
        groups = _parameter_groups(model, settings)
        self.parameters: list[Tensor] = [p for g in groups for p in g["params"]]  # type: ignore[attr-defined]
        self.optimizer = _optimizer(groups, settings)
        self.schedule = _schedule(self.optimizer, settings, steps)
        self.mixed = mixed_precision(settings.precision, model)
        self.passes, slower = passes_for(self.device, steps)
        if slower:
            progress.note(slower)
        self.spans = _spans(model, self.parameters)
        self._clip_norm = settings.clip_norm
        self._passes_done = 0  # the second needs the most memory: the optimizer has its state then
        self._loss_sum = torch.zeros((), device=self.device)
        self._epochs, self._steps = settings.epochs, steps
        self.right = torch.zeros((), device=self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context of the forward pass: mixed precision, implementation of the quantizers, shared batches."""
        mixed = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed)
        with mixed, using(self.passes), shared_batches():
            yield

    def step(self, loss: Callable[[Counted], Tensor], batch: Counted) -> None:
        """One optimizer step on the loss of `batch`, in mixed precision where that is on."""

        def work() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                value = loss(batch)
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach()

        with timed("step"):
            value = self._within_memory(work)
            average([p.grad for p in self.parameters if p.grad is not None])
            self._update(value, len(batch))

    def epoch(self, loss: Callable[[Counted], Tensor], batches: Iterable[Counted]) -> None:
        """An optimizer step for each of `batches`; the mode of the model does not change.

        Raises:
            UnlearnError: A loss was NaN or infinite.
        """
        steps, images, before = 0, 0, self._loss_sum.clone()
        for batch in batches:
            self.step(loss, batch)
            steps, images = steps + 1, images + len(batch)
        mean, right = float(self._loss_sum - before) / max(1, steps), float(self.right)
        self.require_finite()
        self.right.zero_()
        number = min(self._epochs, math.ceil(self._epochs * self.schedule.last_epoch / max(1, self._steps)))
        share = min(1.0, right / max(1, images)) if right else None
        self.progress.epoch(number, self._epochs, mean, share)

    def gradient(self, loss: Callable[[B], Tensor], batch: B) -> Float[Tensor, " d"]:
        """Gradient of the loss of `batch` in all `parameters`, as a flat vector; no parameter changes.

        A parameter that the loss does not depend on has gradient 0.
        """

        def work() -> tuple[Tensor, tuple[Tensor, ...]]:
            with self.autocast():
                value = loss(batch)
            found = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
            return value.detach(), found

        with timed("step"):
            value, found = self._within_memory(work)
            self._loss_sum += value
            flat = torch.empty(sum(p.numel() for p in self.parameters), device=self.device)
            torch._foreach_copy_(self.views(flat), list(found))
            average([flat])
            return flat

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Run a forward and backward pass; if it runs out of memory, repeat it with recomputed blocks."""
        state = None if self._passes_done > 1 else PassState.of(self.model)
        try:
            found = work()
        except (RuntimeError, MemoryError) as error:
            # Processes that share a batch wait for each other in collectives: one alone cannot repeat a pass.
            if not ran_out(error) or processes() > 1 or not spare(self.model):
                raise
        else:
            self._passes_done += 1
            return found
        # Not in the handler above: the error's traceback keeps the tensors of the failed pass alive.
        self.progress.note("not enough memory for this batch: blocks are computed twice, a third more work")
        if state is not None:
            state.restore(self.model)
        return work()

    def views(self, flat: Float[Tensor, " d"]) -> list[Tensor]:
        """Views of a flat vector in the shapes and memory layouts of the parameters."""
        return [
            flat[span.indices].as_strided(p.size(), p.stride(), flat.storage_offset() + span.indices.start)
            for span, p in zip(self.spans, self.parameters, strict=True)
        ]

    def follow(self, gradient: Float[Tensor, " d"], images: int) -> None:
        """One optimizer step on a flat gradient, which may be overwritten."""
        with timed("step"):
            for parameter, view in zip(self.parameters, self.views(gradient), strict=True):
                parameter.grad = view
            self._update(gradient.new_zeros(()), images)

    def _update(self, loss: Tensor, images: int) -> None:
        if self._clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self._loss_sum += loss
        self.progress.advance(images)

    def require_finite(self) -> None:
        """Check all losses since the last call; steps do not, so that the host need not wait for the device.

        Raises:
            UnlearnError: A loss was NaN or infinite.
        """
        if not bool(self._loss_sum.isfinite()):
            raise UnlearnError("the loss is not finite: the run diverged; try a smaller learning rate")
        self._loss_sum.zero_()


def cross_entropy(
    model: nn.Module, reduction: Literal["mean", "sum"] = "mean", *, right: Tensor | None = None,
    smoothing: float = 0.0,
) -> Callable[[Batch | Pair], Tensor]:  # fmt: skip
    """The cross-entropy of the logits of `model` and the labels, as a loss function of a batch.

    Args:
        model: The network.
        reduction: Of the losses of a batch.
        right: The number of images that are recognised is added to it.
        smoothing: The share of each label that is spread over all classes.
    """

    def loss(batch: Batch | Pair) -> Tensor:
        logits = model(batch.images)
        if right is not None:
            right.add_((logits.detach().argmax(1) == batch.labels).sum())
        return F.cross_entropy(logits, batch.labels, reduction=reduction, label_smoothing=smoothing)

    return loss


def _parameter_groups(model: nn.Module, settings: Optimization) -> list[dict[str, object]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    scales: list[Tensor] = []
    pulled: list[Tensor] = []
    for name, parameter in model.named_parameters():
        group = parameter_group(name, model)
        if group in ("weight_scale", "activation_scale"):
            parameter.requires_grad_(settings.scale_lr > 0)
            if settings.scale_lr > 0:
                (pulled if penalised(name, model) else scales).append(parameter)
        elif parameter.requires_grad:
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": scales, "weight_decay": 0.0, "lr": settings.lr * settings.scale_lr},
        {"params": pulled, "weight_decay": settings.weight_decay, "lr": settings.lr * settings.scale_lr},
    ]
    return [g for g in groups if g["params"]]


_OPTIMIZERS: Final = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _optimizer(groups: list[dict[str, object]], settings: Optimization) -> torch.optim.Optimizer:
    extra = {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
    made: torch.optim.Optimizer = _OPTIMIZERS[settings.optimizer](groups, lr=settings.lr, fused=True, **extra)
    return made


def _schedule(
    optimizer: torch.optim.Optimizer, settings: Optimization, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    warmup = round(settings.warmup * steps / max(1, settings.epochs))
    factor: dict[Schedule, Callable[[int], float]] = {
        "cosine": lambda step: cosine(step, steps, warmup),
        "constant": lambda step: 1.0,
        "exponential": lambda step: exponential(step, steps, settings.final),
    }
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor[settings.schedule])


def _spans(model: nn.Module, parameters: list[Tensor]) -> list[Span]:
    names = {id(p): name for name, p in model.named_parameters()}
    spans, start = [], 0
    for parameter in parameters:
        name = names[id(parameter)]
        spans.append(
            Span(name, parameter_group(name, model), slice(start, start := start + parameter.numel()))
        )
    return spans


def train_mode(model: nn.Module, *, statistics: bool) -> nn.Module:
    """Put `model` into training mode; without `statistics`, batch-norm and dropout stay in evaluation mode.

    Methods that must not update batch-norm statistics on forget images train with `statistics=False`.
    """
    model.train()
    if not statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
                module.eval()
    return model
