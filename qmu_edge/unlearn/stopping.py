"""Stopping rule for single samples: stop once forget accuracy is no higher than accuracy on unseen images.

With more steps the network would be wrong on forget images more often than on unseen ones, which a membership
inference test can detect as well.
"""

import torch
from torch import Tensor

from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.fit import accuracy
from qmu_edge.train.loop import Descent


class Crossing:
    """Compares forget and validation accuracy after each epoch, and ends the run where they cross.

    Of the epochs before and after the crossing, the one with the smaller difference of accuracies is kept.
    The original network is never kept. Only the optimized parameters are restored: batch-norm statistics have
    to be frozen.
    """

    def __init__(self, descent: Descent, data: ForgetRetain) -> None:
        """Observe the run `descent`.

        Raises:
            UnlearnError: There are no validation images.
        """
        data.validation.require_some("validation")
        self._descent, self._data = descent, data
        self._before: list[Tensor] = []
        self._gap = 0.0

    @torch.no_grad()
    def reached(self) -> bool:
        """Whether to stop after the last epoch; if so, the better epoch's parameters are in the network.

        Accuracies are measured in evaluation mode; the mode of the network is restored.
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
