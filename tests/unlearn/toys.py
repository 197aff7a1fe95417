"""Image sets for the methods' tests."""

from collections.abc import Callable

import torch

from qmu_edge.train.batches import ForgetRetain, Samples


def split(toy: Callable[..., Samples], n: int = 12, forget: int = 4) -> ForgetRetain:
    """Of `n` toy images the first `forget` are forgotten; six others are for validation."""
    everything = toy(n)
    return ForgetRetain(
        forget=everything.take(torch.arange(forget)),
        retain=everything.take(torch.arange(forget, n)),
        validation=toy(6, seed=1),
    )
