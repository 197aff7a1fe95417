"""The end of a run: at the crossing of forget and validation accuracy, with the nearer of two epochs."""

from collections.abc import Callable

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization
from qmu_edge.unlearn import stopping
from qmu_edge.unlearn.stopping import Crossing

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.mark.parametrize(
    ("forget", "unseen", "stopped", "kept"),
    [
        ([0.9, 0.75, 0.25], [0.5, 0.5, 0.5], 3, 2),  # as far on both sides: the crossing counts
        ([0.9, 0.625, 0.25], [0.5, 0.5, 0.5], 3, 1),  # the epoch before was nearer
        ([0.9, 0.7], [0.7, 0.7], 2, 1),  # equal is crossed
        ([0.2], [0.7], 1, 0),  # at once: the original is no result
        ([0.9, 0.9], [0.7, 0.7], None, 1),
    ],
)
def test_nearer_epoch_is_kept(
    forget: list[float], unseen: list[float], stopped: int | None, kept: int,
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notes: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda _, text: notes.append(text))
    data = ForgetRetain(forget=toy(6), retain=toy(6), validation=toy(3))
    accuracies = {6: iter(forget), 3: iter(unseen)}
    monkeypatch.setattr(stopping, "accuracy", lambda _, samples: next(accuracies[len(samples)]))
    model = network()
    crossing = Crossing(Descent(model, Optimization(), 1, data.progress), data)
    weight = model.get_parameter("head.weight")
    ended = None
    for epoch in range(len(forget)):
        with torch.no_grad():
            weight.fill_(float(epoch))
        if crossing.reached():
            ended = epoch + 1
            break
    assert ended == stopped
    assert bool((weight == float(kept)).all())
    assert any("smaller learning rate" in note for note in notes) == (stopped == 1)


def test_without_validation_images_there_is_no_crossing(network: Network, toy: Toy) -> None:
    data = ForgetRetain(forget=toy(3), retain=toy(3), validation=toy(0))
    with pytest.raises(UnlearnError, match="the validation set is empty"):
        Crossing(Descent(network(), Optimization(), 1, Progress()), data)
