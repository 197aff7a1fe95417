"""Boundary expand: one more output while it trains, none afterwards."""

from collections.abc import Callable

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.methods import boundary_expand
from qmu_edge.unlearn.methods.boundary_expand import Params, check, extra_output

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_extra_output_stands_beside_the_others_and_goes_without_a_trace(network: Network, toy: Toy) -> None:
    model = network()
    names, (batch,) = list(model.state_dict()), toy(4).batches(4)
    logits = model(batch.images)
    with extra_output(model):
        with torch.no_grad():
            model.get_parameter("extra.bias").fill_(7.0)
        wide = model(batch.images)
    assert torch.equal(wide, torch.cat([logits, torch.full((4, 1), 7.0)], 1))
    with pytest.raises(ValueError, match="stop"), extra_output(model):
        raise ValueError("stop")
    assert list(model.state_dict()) == names
    assert torch.equal(model(batch.images), logits)


def test_a_network_that_ends_in_a_convolution_is_refused(network: Network, toy: Toy) -> None:
    model, data = network(), ForgetRetain(forget=toy(6), retain=toy(6), validation=toy(6))
    check(model, data, Params())
    model.head = torch.nn.Conv2d(8, 3, 1)
    with pytest.raises(UnlearnError, match="that of resnet18 is a Conv2d; take another method"):
        check(model, data, Params())


def test_forget_images_go_to_the_extra_output(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, forget = network(), toy(6)
    (batch,) = forget.batches(6)
    chosen: list[int] = []
    original = Descent.require_finite

    def look(self: Descent) -> None:
        chosen.append(int((model(batch.images).argmax(1) == 3).sum()))
        original(self)

    monkeypatch.setattr(Descent, "require_finite", look)
    data = ForgetRetain(forget=forget, retain=toy(3), validation=toy(3))
    params = Params(epochs=12, batch=6, lr=0.02)
    result = boundary_expand.run(model, data, params, torch.Generator().manual_seed(0)).eval()
    assert chosen[-1] == 6
    assert result(batch.images).shape == (6, 3)
