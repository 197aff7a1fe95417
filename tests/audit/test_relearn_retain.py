"""Whether the forgotten returns by training on retained images."""

import copy
from collections.abc import Callable

import torch

from qmu_edge.audit import relearn_retain
from qmu_edge.audit.relearn_retain import relearned_from_retain, taught
from qmu_edge.audit.subject import Subject
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples


def test_a_copy_is_taught_and_the_network_stays(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    model, samples = network(), toy(24)
    before = copy.deepcopy(model.state_dict())
    student = taught(model, samples, torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, before[k]) for k, v in student.state_dict().items())
    again = relearned_from_retain(model, samples, toy(6, seed=1), torch.Generator().manual_seed(0))
    assert 0.0 <= again <= 1.0


def test_what_retained_images_teach_is_recognised_on_forgotten_and_on_unseen_ones(real: Subject) -> None:
    before, after = relearn_retain.run(real)
    assert before.file is not None and after.file is not None and after.unknowing is not None
    assert after.file.value >= before.file.value  # all are of the same three kinds
    assert before.original is not None and after.original is not None
