"""How quickly a network learns again."""

import copy
from collections.abc import Callable

import torch

from qmu_edge.audit.relearn import relearn_epochs, relearned_from_retain
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
    assert 0.0 <= relearned_from_retain(model, samples, toy(6, seed=1), draw) <= 1.0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
