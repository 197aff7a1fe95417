"""CT: kernels are transposed and nothing else, and a network without kernels is refused untouched."""

import copy
from collections.abc import Callable

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.unlearn.methods import ct, finetune
from qmu_edge.unlearn.methods.ct import Params
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_are_transposed_before_training_and_nothing_else_changes(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
) -> None:
    monkeypatch.setattr(finetune, "run", lambda model, data, params, generator: model)
    model = network().to(memory_format=layout)  # type: ignore[call-overload]
    before = copy.deepcopy(model.state_dict())
    changed = ct.run(model, split(toy), Params(), torch.Generator()).state_dict()
    moved = set()
    for name, tensor in changed.items():
        if tensor.dim() == 4 and "scaling" not in name:
            assert torch.equal(tensor, before[name].transpose(2, 3))
        if not torch.equal(tensor, before[name]):
            moved.add(tuple(tensor.shape[2:]))
    assert moved == {(3, 3)}


def test_network_of_1x1_convolutions_is_refused_before_work(network: Network, toy: Toy) -> None:
    model = network(architecture="mobilenet_v2")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnlearnError, match="34 of the 52 convolutions of mobilenet_v2 are 1x1"):
        apply("ct", model, split(toy), Params(), torch.Generator())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
