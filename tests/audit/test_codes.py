"""Which integer codes changed between two networks."""

import copy
from collections.abc import Callable

import pytest
import torch

from qmu_edge.audit.codes import code_changes, integer_codes
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier

Network = Callable[..., Classifier]


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
