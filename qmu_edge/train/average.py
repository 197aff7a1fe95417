"""The exponential moving average of the weights of a run, which is released in place of the last ones.

Latent weights, biases and steps of quantizers are averaged, whatever the run optimizes. Batch-norm statistics
are not: those of the run belong to its last weights, and a mean of them would belong to none. They are taken
anew, under the averaged weights, from the images of the run alone.

Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992; with the short memory at the start of
    TensorFlow's ExponentialMovingAverage. Statistics anew: Izmailov et al., arXiv:1803.05407.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.loop import Descent
from qmu_edge.train.requantize import BATCH, STATISTICS_IMAGES, average_statistics

_PREFIX: Final = "average."


def kept(average: float, step: int) -> float:
    """The share of the average so far in the next one, after `step` steps; small at first: the start goes.

    >>> [round(kept(0.9, step), 2) for step in (0, 10, 1000)]
    [0.1, 0.55, 0.9]
    """
    return min(average, (1 + step) / (10 + step))


class Average:
    """The average of the parameters of a run.

    Attributes:
        values: Of each of `Descent.parameters`, on its device.
    """

    def __init__(self, descent: Descent, average: float, state: Mapping[str, Tensor]) -> None:
        """Follow a calibrated run from here on, or from where `state` was stored; after each of its steps."""
        self.values = [p.detach().clone() for p in descent.parameters]
        for number, value in enumerate(self.values):
            if state:
                value.copy_(state[f"{_PREFIX}{number}"])
        self._descent, self._average = descent, average
        descent.optimizer.register_step_post_hook(self._step)

    def state(self) -> dict[str, Tensor]:
        """What a run that goes on needs of it."""
        return {f"{_PREFIX}{number}": v.contiguous() for number, v in enumerate(self.values)}

    @torch.no_grad()
    def _step(self, *_: Any) -> None:
        moved = 1 - kept(self._average, self._descent.schedule.last_epoch)
        torch._foreach_lerp_(self.values, self._descent.parameters, moved)

    def release(self, model: Classifier, samples: Samples, batch: int, generator: torch.Generator) -> None:
        """Give the network the averaged weights, and statistics that are right for them, of `samples`."""
        with torch.no_grad():
            torch._foreach_copy_(self._descent.parameters, self.values)
        several = min(BATCH, 4 * batch)  # forward passes alone, as in `requantize`
        average_statistics(model, samples, several, generator, self._descent.progress, STATISTICS_IMAGES)
