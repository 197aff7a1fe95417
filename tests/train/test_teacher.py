"""The float teacher of a run: trained on its images alone, asked, and gone at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train import fit as fit_module
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import fit, predict
from qmu_edge.train.objective import asked
from qmu_edge.train.teacher import TEACHER, divergence, untaught
from qmu_edge.unlearn.registry import METHODS, apply, parameters
from tests.networks import TWO_BLOCKS, two_blocks

pytestmark = pytest.mark.usefixtures("shallow")

Toy = Callable[..., Samples]
Network = Callable[..., Classifier]
RECIPE = TrainRecipe(epochs=2, batch=6, lr=0.05, precision="float32", distillation=0.5, average=0.5)


def made(**changes: Any) -> Classifier:
    """A network that is not trained yet."""
    recipe = ModelRecipe(**TWO_BLOCKS, **changes)
    return build(recipe, Shape(channels=1, classes=3), seed=0, factory=two_blocks)


def taught(samples: Samples, recipe: TrainRecipe = RECIPE, resume: Path | None = None) -> Classifier:
    """A network that was."""
    return fit(made(), samples, recipe, Augment(pad=1), progress=Progress(), resume=resume)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether all tensors are."""
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_the_loss_is_the_formula_of_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, answers = (3 * torch.randn(5, 4, generator=generator) for _ in range(2))
    found = 0.0
    for ours, theirs in zip(logits.double(), answers.double(), strict=True):
        p, q = (theirs / 3).softmax(0), (ours / 3).softmax(0)
        found += 9 * float((p * (p.log() - q.log())).sum()) / 5
    assert float(divergence(logits, answers, 3.0)) == pytest.approx(found, rel=1e-4)

    class Plain:
        labels = torch.tensor([0, 3, 1, 2, 2])

    recipe = TrainRecipe(distillation=0.25, temperature=3.0)
    total = 0.75 * float(F.cross_entropy(logits, Plain.labels)) + 0.25 * found
    assert float(asked.__wrapped__(recipe, logits, Plain(), answers)) == pytest.approx(total, rel=1e-4)  # type: ignore[attr-defined]


def test_a_teacher_is_float(toy: Toy) -> None:
    """It answers as the same layers of torch do, whatever the network's bits."""
    teacher = untaught(made(weight_bits=2, activation_bits=2), 0).eval()
    assert [n for n, m in teacher.named_modules() if n.endswith("act_quant") and m.is_quant_enabled] == []
    for _, layer in weight_layers(teacher):
        weight = layer.quant_weight()
        assert torch.equal(getattr(weight, "value", weight), layer.weight)
        assert len(layer.weight.unique()) > 16


def test_a_run_trains_its_teacher_on_its_own_images_and_asks_it(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Classifier, Samples, TrainRecipe]] = []
    original = fit_module._trained

    def spy(model: Classifier, samples: Samples, recipe: TrainRecipe, *args: Any, **named: Any) -> Classifier:
        seen.append((model, samples, recipe))
        return original(model, samples, recipe, *args, **named)

    monkeypatch.setattr(fit_module, "_trained", spy)
    everything = toy(40)
    some = everything.take(torch.arange(30))
    recipe = RECIPE.model_copy(update={"epochs": 10, "distillation": 1.0})
    network = taught(some, recipe)
    (_, _, whole), (teacher, images, alone) = seen
    assert images is some and whole == recipe and alone == recipe.model_copy(update={"distillation": 0.0})
    answers, found = (predict(model, some) for model in (teacher, network))
    assert (answers.argmax(1) == some.labels).float().mean() > 0.8
    far = float(divergence(found, answers, 1.0))  # it was told no label, and knows them of the teacher
    assert (found.argmax(1) == answers.argmax(1)).float().mean() > 0.8 and far < 0.5


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("kill", range(1, 6))
def test_a_run_that_is_killed_at_any_state_ends_where_another_one_does(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    """Two states of the teacher's training, the teacher itself, and two of the network's."""
    samples, state = toy(12), tmp_path / "state.safetensors"
    whole, original, saved = taught(samples), fit_module._save, 0

    def save_and_die(*args: Any) -> None:
        nonlocal saved
        original(*args)
        saved += 1
        if saved == kill:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "SAVE_EVERY_S", -1.0)
        patch.setattr(fit_module, "_save", save_and_die)
        with pytest.raises(Killed):
            taught(samples, resume=state)
    names = load(state.read_bytes()[32:])
    assert any(name.startswith(TEACHER) for name in names) == (kill > 2)
    passes: list[int] = []
    batches = Samples.batches

    def counted(self: Samples, *args: Any) -> Any:
        passes.append(1)
        return batches(self, *args)

    monkeypatch.setattr(Samples, "batches", counted)
    resumed = taught(samples, resume=state)
    # A pass for each epoch that is left, for statistics, and for calibration (four batches, of two a pass).
    assert len(passes) == {1: 1 + 1 + 2 + 2 + 1, 2: 0 + 1 + 2 + 2 + 1, 3: 2 + 2 + 1, 4: 1 + 1, 5: 0 + 1}[kill]
    assert same(whole, resumed) and not state.exists()


def test_a_teacher_of_another_network_is_not_taken(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, state, original = toy(12), tmp_path / "state.safetensors", fit_module._save

    def only_the_teacher(noted: Any, generator: Any, run: Any, at: tuple[int, int], path: Path) -> None:
        original(noted, generator, run, at, path)
        if at == (0, 0):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "_save", only_the_teacher)
        with pytest.raises(Killed):
            other = build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), seed=0)
            fit(other, samples, RECIPE, Augment(pad=1), progress=Progress(), resume=state)
    assert state.is_file()
    assert same(taught(samples), taught(samples, resume=state))


def test_retraining_asks_no_teacher_that_saw_the_forgotten(network: Network, toy: Toy) -> None:
    """The result is that of images that were never there, to the bit."""
    samples = toy(24)
    forget, retain = samples.take(torch.arange(6)), samples.take(torch.arange(6, 24))
    params = parameters("retrain", {}, RECIPE)
    found = []
    for labels in (forget.labels, (forget.labels + 1) % 3):
        data = ForgetRetain(forget=forget.relabelled(labels), retain=retain, validation=toy(6, seed=1))
        model = network(**TWO_BLOCKS)
        found.append(apply("retrain", model, data, params, torch.Generator().manual_seed(0)))
    assert same(*found)


def test_a_teacher_is_counted_in_what_retraining_costs() -> None:
    train = TrainRecipe(epochs=6)
    plain, more = (
        METHODS["retrain"].work(parameters("retrain", {}, of))
        for of in (train, train.model_copy(update={"distillation": 0.5}))
    )
    assert plain.over(10, 90) == 6 * 90 and more.over(10, 90) == pytest.approx(14 * 90)
