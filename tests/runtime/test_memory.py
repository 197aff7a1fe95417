"""Out of memory: the same network in less; then one line that names the batch size; other errors stay."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.models.blocks import spare
from qmu_edge.models.layers import Classifier
from qmu_edge.runtime.memory import within_memory
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy


def allocate() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def in_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("work", [allocate, on_a_gpu, in_python])
@pytest.mark.parametrize(
    ("batch", "advice"), [(128, "lower it to 64 or less"), (1, r"lower \[model\] width")]
)
def test_the_message_names_what_to_lower(work: object, batch: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\[train\] batch = {batch} takes .*: {advice}"):
        with within_memory("[train] batch", batch):
            assert callable(work)
            work()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        with within_memory("[train] batch", 128):
            torch.ones(2, 3) @ torch.ones(2, 3)


def trained(model: Classifier, samples: Samples, notes: list[str] | None = None) -> Classifier:
    """Three epochs from seed 0."""
    generator, progress = torch.Generator().manual_seed(0), Progress()
    if notes is not None:
        progress.note = notes.append  # type: ignore[method-assign,assignment]
    settings = Optimization(
        epochs=3, lr=0.1, momentum=0.9, weight_decay=5e-4, scale_lr=0.1, precision="float32"
    )
    descent = Descent(model, settings, 12, progress)
    torch.manual_seed(0)  # dropout
    for _ in range(3):
        model.train()
        descent.epoch(cross_entropy(model), samples.batches(16, generator, Augment(flip=True)))
    return model


def same(first: Classifier, second: Classifier) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Scarce:
    """A block whose insides are too large to be kept, as a GPU says it."""

    def __init__(self, model: Classifier, *, ever: bool = False, after: int = 0) -> None:
        """Fail in the last block of `model` after some passes, until it recomputes or for ever."""
        self.model, self.ever, self.failed, self.after = model, ever, 0, after
        list(model.get_submodule("blocks").children())[-1].register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        blocks: Any = self.model.get_submodule("blocks")
        if torch.is_grad_enabled() and (self.ever or not blocks.recompute):
            self.after -= 1
            if self.after < 0:
                self.failed += 1
                on_a_gpu()


@pytest.mark.parametrize("after", [0, 1])  # the second pass has the optimizer's own tensors beside it
@pytest.mark.parametrize("architecture", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_a_run_out_of_memory_makes_the_same_network_in_less(
    architecture: str, after: int, network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    start, samples = network(architecture=architecture), toy(60)
    expected = trained(copy.deepcopy(start), samples)
    assert not same(expected, start)
    short, notes = copy.deepcopy(start), list[str]()
    scarce = Scarce(short, after=after)
    assert same(trained(short, samples, notes), expected)
    assert scarce.failed == 1 and len([n for n in notes if "not enough memory" in n]) == 1


def test_flat_gradients_are_the_same_in_less_memory(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    batch = next(iter(toy(16).batches(16)))
    found: list[Tensor] = []
    for model in (network(), network()):
        if found:
            Scarce(model)
        descent = Descent(model.train(), Optimization(lr=0.1, precision="float32"), 1, Progress())
        found.append(descent.gradient(cross_entropy(model), batch))
    assert torch.equal(*found) and found[0].abs().sum() > 0


def test_insides_of_blocks_are_given_back(network: Callable[..., Classifier]) -> None:
    alive = []
    for saving in (False, True):
        model = network().train()
        seen: list[weakref.ref[Tensor]] = []
        for block in model.get_submodule("blocks").children():
            inner = next(m for m in block.modules() if isinstance(m, nn.BatchNorm2d))
            inner.register_forward_hook(lambda m, i, out, seen=seen: seen.append(weakref.ref(out)))
        assert not saving or (spare(model) and not spare(model))
        logits = model(torch.rand(4, 1, 8, 8))
        alive.append(sum(ref() is not None for ref in seen))
        logits.sum().backward()
    assert alive[0] > 0 == alive[1]


def test_where_nothing_is_left_to_save_the_error_stays(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    model = network()
    scarce = Scarce(model, ever=True)
    with pytest.raises(ConfigError, match="lower it to 8"), within_memory("[train] batch", 16):
        trained(model, toy(32))
    assert scarce.failed == 2
