"""Every method on a device that is not the processor."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply, parameters
from tests.runtime.far import FAR, Far, far_device
from tests.unlearn.test_methods import TABLE, TRAIN, _served

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def _far(data: ForgetRetain, device: torch.device, *, streamed: bool) -> ForgetRetain:
    """The same sets; images are on the device, or come to it batch by batch."""

    def moved(samples: Samples) -> Samples:
        pool, index = (t if streamed else t.to(device) for t in (samples.pool, samples.index))
        return Samples(pool, index, samples.labels.to(device), device)

    return replace(
        data, forget=moved(data.forget), retain=moved(data.retain), validation=moved(data.validation)
    )


def _here(model: Classifier) -> dict[str, torch.Tensor]:
    """Everything that a network holds, on the processor."""
    return {k: v.cpu().as_subclass(torch.Tensor).clone() for k, v in model.state_dict().items()}


ALWAYS = {"qmul", "held_out_match", "retrain"}
ROWS = [pytest.param(n, False, marks=[] if n in ALWAYS else pytest.mark.slow) for n in TABLE]


@pytest.mark.parametrize(("name", "streamed"), [*ROWS, ("held_out_match", True)])
def test_a_method_keeps_to_the_device_of_its_images(
    name: str, streamed: bool, network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmu_edge.train.loop.mixed_precision", lambda *_: False)
    near, model = _served(name, toy), network()
    params = parameters(name, TABLE[name], TRAIN)
    expected = apply(name, copy.deepcopy(model), near, params, torch.Generator().manual_seed(0))
    before = _here(expected)
    requantize(expected, near.retain, batch=8, seed=0, progress=Progress())
    with far_device() as device:
        data = _far(near, device, streamed=streamed)
        found = apply(name, model.to(device), data, params, torch.Generator().manual_seed(0))
        unlearned = _here(found)
        requantize(found, data.retain, batch=8, seed=0, progress=Progress())
        assert all(isinstance(p, Far) and p.device == FAR for p in found.parameters())
        logits, requantized = predict(found, data.validation), _here(found)
    assert logits.isfinite().all()
    if name != "retrain":  # from nothing, the last bit of a sum is the next step's direction
        assert all(torch.equal(value, unlearned[key]) for key, value in before.items())
        # The processor measures batch-norm in fused passes, which add in another order.
        for key, value in _here(expected).items():
            torch.testing.assert_close(requantized[key], value, rtol=1e-5, atol=1e-5)


def test_the_device_refuses_what_a_gpu_would() -> None:
    with far_device() as device:
        far = torch.ones(3, device=device)
        assert (far + 1.0).sum().item() == 6.0
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            far + torch.ones(3)
        with pytest.raises(RuntimeError, match="a generator of the processor"):
            torch.randn(3, generator=torch.Generator(), device=device)
        with pytest.raises((RuntimeError, TypeError)):
            far.numpy()
