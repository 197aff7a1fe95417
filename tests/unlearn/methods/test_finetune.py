"""Fine-tuning: one step is a step of plain training on the retain set."""

import copy
from collections.abc import Callable

import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy
from qmu_edge.unlearn.methods.finetune import Params, run


def test_it_is_plain_training_on_the_retain_set(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    data = ForgetRetain(forget=toy(3), retain=toy(10, seed=1), validation=toy(3, seed=2))
    model = network()
    other = copy.deepcopy(model)
    run(model, data, Params(epochs=2, batch=4), torch.Generator().manual_seed(3))
    settings = Optimization(epochs=2, lr=0.01, momentum=0.9, weight_decay=5e-4)
    descent, generator = Descent(other.train(), settings, 6, Progress()), torch.Generator().manual_seed(3)
    for _ in range(2):
        descent.epoch(cross_entropy(other), data.retain.batches(4, generator, data.augment))
    expected = other.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not torch.equal(expected["head.weight"], network().state_dict()["head.weight"])
