"""How quickly a network learns again."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from qmu_edge.audit import relearn
from qmu_edge.audit.relearn import relearn_epochs
from qmu_edge.audit.subject import Subject
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import accuracy

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_relearning_stops_at_the_target_and_leaves_the_network(network: Network, toy: Toy) -> None:
    model, samples = network(), toy(24)
    before = copy.deepcopy(model.state_dict())
    draw = torch.Generator().manual_seed(0)
    now = accuracy(model, samples)
    assert relearn_epochs(model, samples, now, draw) == 0
    assert relearn_epochs(model, samples, 1.1, draw, limit=2) == 2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_was_only_hidden_is_learned_more_quickly_than_what_was_never_seen(real: Subject) -> None:
    """The original has forgotten nothing: it needs no pass at all."""
    epochs, before = relearn.run(replace(real, file=real.original))
    assert epochs.file is not None and epochs.file.value == 0.0
    assert epochs.unknowing is not None and 0.0 <= epochs.unknowing.value <= relearn.LIMIT
    assert before.file is not None and before.file.low is not None and before.file.high is not None
    assert before.file.low <= before.file.value <= before.file.high
