"""When to stop forgetting single samples: once the network does no better on them than on unseen images.

Going on would make the network wrong where one that never saw them is right, which gives them away again.
"""

import torch
from torch import Tensor

from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.fit import accuracy
from qmu_edge.train.loop import Descent


class Crossing:
    """Compares forget and validation accuracy after each epoch, and ends the run where they cross.

    Of the epochs before and after the crossing, the one whose accuracies are nearer to each other is kept.
    The original network is never kept. Only the parameters that are optimized are put back: batch-norm
    statistics have to stand still.
    """

    def __init__(self, descent: Descent, data: ForgetRetain) -> None:
        """Watch a run.

        Raises:
            UnlearnError: There are no validation images.
        """
        data.validation.require_some("validation")
        self._descent, self._data = descent, data
        self._before: list[Tensor] = []
        self._gap = 0.0

    @torch.no_grad()
    def reached(self) -> bool:
        """Whether to stop after the epoch that has just ended; if so, the nearer epoch is in the network.

        The network is measured in evaluation mode; put it back into the mode of training afterwards.
        """
        model, progress = self._descent.model, self._descent.progress
        forget, unseen = accuracy(model, self._data.forget), accuracy(model, self._data.validation)
        progress.note(f"accuracy on forget images {forget:.4f}, on unseen ones {unseen:.4f}")
        if forget > unseen:
            self._before = [p.clone() for p in self._descent.parameters]
            self._gap = forget - unseen
            return False
        if not self._before:
            progress.note("crossed in the first epoch; a smaller learning rate would come nearer")
        elif self._gap < unseen - forget:
            torch._foreach_copy_(self._descent.parameters, self._before)
        return True
