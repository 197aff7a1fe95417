"""Bad teacher: which image learns from whom, and what the untrained teacher is made of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qmu_edge.models.calibration import parameter_group, uncalibrated
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.loop import Descent
from qmu_edge.unlearn.distillation import divergence, teacher
from qmu_edge.unlearn.methods import bad_teacher
from qmu_edge.unlearn.methods.bad_teacher import Params, untrained
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_forget_images_learn_from_the_untrained_teacher_and_no_others(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), split(toy)
    other = network()
    with torch.no_grad():
        other.get_parameter("head.bias").copy_(torch.tensor([2.0, 0.0, -2.0]))
    losses: list[Tensor] = []
    monkeypatch.setattr(bad_teacher, "untrained", lambda *_: teacher(other))
    monkeypatch.setattr(Descent, "step", lambda self, loss, batch: losses.append(loss(batch).detach()))
    params = Params(batch=8, retain_share=0.5)
    bad_teacher.run(model, data, params, torch.Generator().manual_seed(0))
    # Half of 8 retain images beside 4 forget images; the former agree with the original as it is.
    expected = divergence(predict(other, data.forget), predict(model, data.forget)) / 2
    torch.testing.assert_close(losses, [expected])


def test_training_brings_forget_images_near_the_untrained_teacher(network: Network, toy: Toy) -> None:
    model, data = network(), split(toy)
    with torch.no_grad():
        model.get_parameter("head.bias").copy_(torch.tensor([2.0, 0.0, -2.0]))
    uniform = torch.zeros(4, 3)  # nearly what an untrained network says
    before = divergence(uniform, predict(model, data.forget))
    bad_teacher.run(model, data, Params(epochs=6, lr=0.02, batch=16), torch.Generator().manual_seed(0))
    assert divergence(uniform, predict(model, data.forget)) < 0.5 * before


@pytest.mark.parametrize("preset", ["learned_step", "statistics"])
def test_untrained_teacher_is_quantized_calibrated_and_new(network: Network, toy: Toy, preset: str) -> None:
    model, retain = network(quantizer=preset), toy(8)
    fresh = untrained(model, retain, Params(batch=4), torch.Generator().manual_seed(0))
    assert fresh.recipe == model.recipe
    assert not uncalibrated(fresh)
    assert fresh(next(retain.batches(8)).images).softmax(1).isfinite().all()
    mine = dict(model.named_parameters())
    weights = [n for n, _ in fresh.named_parameters() if parameter_group(n, fresh) == "weights"]
    assert weights
    assert not any(torch.equal(fresh.get_parameter(n), mine[n]) for n in weights)
