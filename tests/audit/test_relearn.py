"""Audits that look inside: which integer codes changed, and how quickly a network learns again."""

import copy
from collections.abc import Callable

import pytest
import torch

from qmu_edge.audit.codes import code_changes, integer_codes
from qmu_edge.audit.relearn import relearn_epochs, relearned_from_retain
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import accuracy

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_codes_are_weights_over_steps_and_changes_are_counted(network: Network) -> None:
    model = network()
    codes = integer_codes(model)
    name, layer = next(weight_layers(model))
    quantized = layer.quant_weight()
    torch.testing.assert_close(codes[name] * quantized.scale, quantized.value)
    other = copy.deepcopy(model)
    changed = dict(weight_layers(other))[name]
    with torch.no_grad():
        changed.weight.neg_()
    found = code_changes(codes, integer_codes(other))
    moved = (codes[name] != 0).double().mean().item()
    assert found[name].flipped == pytest.approx(moved)
    assert found[name].distance == pytest.approx(2 * codes[name].double().abs().mean().item())
    assert all(c.flipped == 0 for key, c in found.items() if key not in (name, "all"))
    assert found["all"].weights == sum(c.numel() for c in codes.values())
    assert found["all"].flipped == pytest.approx(moved * codes[name].numel() / found["all"].weights)


def test_relearning_stops_at_the_target_and_leaves_the_network(network: Network, toy: Toy) -> None:
    model, samples = network(), toy(24)
    before = copy.deepcopy(model.state_dict())
    draw = torch.Generator().manual_seed(0)
    now = accuracy(model, samples)
    assert relearn_epochs(model, samples, now, draw) == 0
    assert relearn_epochs(model, samples, 1.1, draw, limit=2) == 2
    assert 0.0 <= relearned_from_retain(model, samples, toy(6, seed=1), draw) <= 1.0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
