"""Data parallelism within a batch, with the results of a single process.

Every process runs the same method on the same batches. Inside `shared_batches` a process computes the logits
of its chunk of the images only and gathers the others, so that any loss of the whole batch can be computed.
`average` then turns the gradients of all processes into that of the whole batch. Batch-norm takes its
statistics over all chunks. Outside `shared_batches`, and with a single process, networks run as usual.

PyTorch's DistributedDataParallel does not serve here: it needs a separate loss for each chunk and a backward
pass, but methods compare losses of two sets, and compute gradients without `backward`. The collectives are
PyTorch's.

Shapes: n images, k classes, r processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

_active: Final = ContextVar("networks compute a share of each batch", default=False)


def processes() -> int:
    """Number of processes that share each batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def shared_batches() -> Iterator[None]:
    """Let each process compute only its chunk of a batch inside the context."""
    token = _active.set(processes() > 1)
    try:
        yield
    finally:
        _active.reset(token)


def average(gradients: Sequence[Tensor]) -> None:
    """Replace gradients by their mean over all processes, by one all-reduce; no effect with one process."""
    if processes() == 1 or not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    chunks = torch.split(flat, [g.numel() for g in gradients])
    torch._foreach_copy_(list(gradients), [p.view_as(g) for p, g in zip(chunks, gradients, strict=True)])


def forward(network: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
    """`network(images)`; inside `shared_batches` each process computes a chunk.

    A batch with fewer images than processes, or with images that require a gradient, is computed by every
    process.
    """
    if not _active.get() or len(images) < processes() or images.requires_grad:
        return network(images)
    bounds = [len(images) * rank // processes() for rank in (dist.get_rank(), dist.get_rank() + 1)]
    with _BatchNormOverAll(), _whole():
        own = network(images[bounds[0] : bounds[1]])
    found: Tensor = _Gathered.apply(own, bounds[0], len(images))  # type: ignore[no-untyped-call]
    return found


@contextmanager
def _whole() -> Iterator[None]:
    """Do not split again in networks that `network` calls: their input is a chunk already."""
    token = _active.set(False)
    try:
        yield
    finally:
        _active.reset(token)


class _Gathered(torch.autograd.Function):
    """Gather the rows of all processes; the gradient is that of the process' own rows times r.

    The factor compensates the division by r in `average`.
    Terms of a loss that do not depend on the logits (a penalty on weights) are the same in all processes, so
    that averaging does not change their gradient.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, start: int, n: int) -> Tensor:
        """All n rows; this process has those from `start` on."""
        ctx.rows = slice(start, start + len(own))
        whole = own.new_zeros(n, *own.shape[1:])
        whole[ctx.rows] = own
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the rows of this process."""
        return grad[ctx.rows] * processes(), None, None


class _BatchNormOverAll(TorchFunctionMode):
    """Takes the statistics of batch-norm in training over all processes, on any device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is not F.batch_norm or not (args[5] if len(args) > 5 else given.get("training")):
            return func(*args, **given)
        return _batch_norm(*args, **given)


def _batch_norm(
    x: Float[Tensor, "n c *s"],
    mean: Float[Tensor, " c"] | None,
    variance: Float[Tensor, " c"] | None,
    weight: Float[Tensor, " c"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "n c *s"]:
    """`F.batch_norm` in training; running statistics are updated as in one process."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    others = [d for d in range(x.dim()) if d != 1]
    each = wide.new_full((1, x.shape[1]), x.numel() // x.shape[1])
    count, first = all_reduce(torch.cat([each, wide.sum(others)[None]]))  # type: ignore[no-untyped-call]
    centre = first / count
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    off = wide - centre.view(shape)
    spread = all_reduce(off.square().sum(others)) / count  # type: ignore[no-untyped-call]
    if mean is not None and variance is not None:
        with torch.no_grad():
            mean.lerp_(centre, momentum)
            variance.lerp_(spread * (count / (count - 1)), momentum)
    scaled = off * (spread + eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        scaled = scaled * weight.view(shape) + bias.view(shape)
    normed: Tensor = scaled.to(x.dtype)
    return normed
