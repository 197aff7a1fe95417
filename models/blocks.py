"""A sequence of blocks with optional activation checkpointing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qmu_edge.models.kernels import fused
from qmu_edge.models.kinds import NORMS


def spare(model: nn.Module) -> bool:
    """Turn activation checkpointing on in all `Blocks` of `model`; False where it was on already.

    Splitting the batch instead would change the batch-norm statistics, and so the trained network.
    """
    kept = [m for m in model.modules() if isinstance(m, Blocks) and not m.recompute]
    for blocks in kept:
        blocks.recompute = True
    return bool(kept)


class Blocks(nn.Sequential):
    """A `Sequential` with activation checkpointing.

    Attributes:
        recompute: While true, only the input of each block is stored, and the backward pass recomputes its
            other
            activations: a third more work in a fraction of the memory, with the same values, gradients and
            batch-norm statistics to the bit.
    """

    recompute = False

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """All blocks in order."""
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
            else:
                x = block(x)
        return x


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Context managers of the first pass of a block, and of its recomputation."""
    return nullcontext(), _repeating(block, fused.current())


@contextmanager
def _repeating(block: nn.Module, passes: fused.Passes) -> Iterator[None]:
    """Recompute with the same quantizer passes, without updating batch-norm statistics a second time."""
    with ExitStack() as stack:
        stack.enter_context(fused.using(passes))
        for norm in (m for m in block.modules() if isinstance(m, NORMS)):
            for name, still in (("momentum", 0.0), ("num_batches_tracked", None)):
                stack.callback(setattr, norm, name, getattr(norm, name))
                setattr(norm, name, still)
        yield
