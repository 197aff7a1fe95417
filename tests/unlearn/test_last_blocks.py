"""CF-k and EU-k: the front stays to the bit, and nothing of a replaced end survives."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.last_blocks import last_blocks, submodules
from qmu_edge.unlearn.registry import METHODS, apply

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _run(name: str, model: Classifier, toy: Toy, **params: Any) -> Classifier:
    data = ForgetRetain(forget=toy(3), retain=toy(8, seed=1), validation=toy(3, seed=2))
    given = METHODS[name].params(**{"epochs": 1, "batch": 4, "lr": 0.05, **params})
    return apply(name, model, data, given, torch.Generator().manual_seed(0))


def test_end_is_the_last_blocks_and_all_behind_them(network: Network) -> None:
    resnet, mobilenet = network(), network(architecture="mobilenet_v2")
    assert last_blocks(resnet, 2) == ["blocks.6", "blocks.7", "pooled", "flatten", "head"]
    assert last_blocks(mobilenet, 1) == ["blocks.16", "last", "pooled", "dropout", "flatten", "head"]
    assert last_blocks(resnet, 8)[0] == "blocks.0"


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_more_blocks_than_there_are_is_an_error(name: str, network: Network, toy: Toy) -> None:
    with pytest.raises(UnlearnError, match="k is 9, but resnet18 has 8 blocks"):
        _run(name, network(), toy, k=9)


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("preset", ["learned_step", "statistics"])
@pytest.mark.parametrize("k", [1, 3])
def test_front_stays_to_the_bit_and_every_layer_of_the_end_moves(
    name: str, preset: str, k: int, network: Network, toy: Toy
) -> None:
    before = network(quantizer=preset)
    after = _run(name, copy.deepcopy(before), toy, k=k, scale_lr=0.5).state_dict()
    end = tuple(f"{n}." for n in last_blocks(before, k))
    for key, value in before.state_dict().items():
        if not key.startswith(end):
            assert torch.equal(after[key], value), key
        elif value.dim() > 1 or "running_" in key:
            assert not torch.equal(after[key], value), key


def test_nothing_of_a_replaced_end_survives(network: Network, toy: Toy) -> None:
    other = network()
    with torch.no_grad():
        for tensor in submodules(other, last_blocks(other, 2)).state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.0)
    found = _run("eu_k", network(), toy).state_dict()
    same = _run("eu_k", other, toy).state_dict()
    assert all(torch.equal(v, same[k]) for k, v in found.items())
