"""Training: it learns, repeats itself bitwise, survives a kill, and refuses what cannot work."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import parameter_group
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train import fit as fit_module
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.fit import accuracy, fit, predict
from qmu_edge.train.loop import Descent, Optimization, cosine, cross_entropy, train_mode

pytestmark = pytest.mark.usefixtures("shallow")

Toy = Callable[..., Samples]
DROPOUT = {"architecture": "mobilenet_v2", "weight_bits": 2, "activation_bits": "float"}
PADDED = Augment(pad=1)
COLOURED = Augment(flip=True, crop_area=0.5, jitter=0.4, hue=0.1, rand_ops=2)
RECIPE = TrainRecipe(epochs=2, batch=8, lr=0.05, warmup=1.0, precision="float32")


class Told(Progress):
    """What is said of epochs: number, of how many, loss, accuracy."""

    def __init__(self) -> None:
        """Write nothing."""
        super().__init__()
        self.epochs: list[tuple[int, int, float, float | None]] = []

    def epoch(self, number: int, of: int, loss: float, accuracy: float | None = None) -> None:
        """Keep it."""
        self.epochs.append((number, of, loss, accuracy))


def _fit(
    samples: Samples, recipe: TrainRecipe = RECIPE, resume: Path | None = None,
    progress: Progress | None = None, augment: Augment = PADDED, **model: Any,
) -> Classifier:  # fmt: skip
    network = build(ModelRecipe(**{"width": 0.125, **model}), Shape(channels=1, classes=3), seed=0)
    shown = progress or Progress()
    fit(network, samples, recipe, augment, progress=shown, resume=resume)
    return network


def _same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_toy_problem_is_learned(toy: Toy) -> None:
    samples, strangers = toy(48), toy(30, seed=1)
    recipe = RECIPE.model_copy(update={"epochs": 12})
    model = _fit(samples, recipe, progress=(told := Told()))
    assert not model.training
    assert accuracy(model, samples) > 0.9
    assert accuracy(model, strangers) > 0.8
    loss = nn.functional.cross_entropy(predict(model, samples), samples.labels)
    assert loss < 0.5 * math.log(3)
    assert [(number, of) for number, of, _, _ in told.epochs] == [(n, 12) for n in range(1, 13)]
    losses, shares = [loss for *_, loss, _ in told.epochs], [share or 0.0 for *_, share in told.epochs]
    assert 0.5 * math.log(3) < losses[0] < 2 * math.log(3) and losses[-1] < 0.5 * math.log(3)
    assert all(0.0 < share <= 1.0 for share in shares) and shares[-1] > 0.8


def test_losses_before_an_epoch_are_not_of_it(network: Callable[..., Classifier], toy: Toy) -> None:
    model, told, data = network(), Told(), toy(8)
    descent = Descent(model, Optimization(epochs=1), 1, told)
    (batch,) = data.batches(8)
    descent.gradient(lambda b: 1e6 * cross_entropy(model)(b), batch)
    descent.epoch(cross_entropy(model), [batch])
    ((number, of, loss, accuracy),) = told.epochs
    assert (number, of, accuracy) == (1, 1, None) and loss < 10


@pytest.mark.parametrize("model", [{}, DROPOUT], ids=["resnet18", "dropout"])
def test_same_seed_gives_the_same_network_whatever_was_drawn_before(toy: Toy, model: dict[str, Any]) -> None:
    samples, recipe = toy(12), RECIPE.model_copy(update={"epochs": 1})
    first = _fit(samples, recipe, **model)
    torch.rand(3)
    assert _same(first, _fit(samples, recipe, **model))
    assert not _same(first, _fit(samples, recipe.model_copy(update={"seed": 1}), **model))


class Killed(Exception):
    """Stands for a process that dies."""


def _killed_after_an_epoch(
    monkeypatch: pytest.MonkeyPatch, samples: Samples, state: Path, recipe: TrainRecipe = RECIPE, **model: Any
) -> None:
    """Train until the first state is written, and die."""
    original = fit_module._save

    def save_and_die(*args: Any) -> None:
        original(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "SAVE_EVERY_S", -1.0)
        patch.setattr(fit_module, "_save", save_and_die)
        with pytest.raises(Killed):
            _fit(samples, recipe, state, **model)
    assert state.is_file()


MIXED = RECIPE.model_copy(update={"mixup": 0.4})
AVERAGED = RECIPE.model_copy(update={"average": 0.8})
ADAMW = RECIPE.model_copy(update={"optimizer": "adamw", "lr": 0.005, "label_smoothing": 0.1})


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        pytest.param(RECIPE, {}, id="learned_step"),
        pytest.param(RECIPE, {"quantizer": "statistics"}, id="statistics"),
        pytest.param(RECIPE, DROPOUT, id="dropout"),
        pytest.param(ADAMW, {}, id="adamw"),
        pytest.param(RECIPE, {"augment": COLOURED}, id="augmented"),
        pytest.param(MIXED, {}, id="mixed"),
        pytest.param(AVERAGED, {}, id="averaged"),
        pytest.param(AVERAGED, {"quantizer": "statistics"}, id="averaged statistics"),
    ],
)
def test_killed_run_ends_where_an_uninterrupted_one_does(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: TrainRecipe, model: dict[str, Any]
) -> None:
    samples, state = toy(12), tmp_path / "state.safetensors"
    whole = _fit(samples, recipe, **model)
    _killed_after_an_epoch(monkeypatch, samples, state, recipe, **model)
    passes: list[int] = []
    original = Samples.batches
    monkeypatch.setattr(Samples, "batches", lambda *a, **k: passes.append(1) or original(*a, **k))  # type: ignore[func-returns-value]
    resumed = _fit(samples, recipe, state, **model)
    assert len(passes) == 1 + bool(recipe.average)  # neither the first epoch nor the calibration again
    assert _same(whole, resumed)
    if recipe.mixup:
        assert whole.difficulty is resumed.difficulty is None  # of no image alone
    else:
        assert whole.difficulty is not None and resumed.difficulty is not None  # noted before it was killed
        assert torch.equal(whole.difficulty, resumed.difficulty)
    assert not state.exists()


@pytest.mark.parametrize(
    "change", [{"optimizer": "adamw"}, {"label_smoothing": 0.2}, {"mixup": 1.0}, {"average": 0.5}], ids=str
)
def test_what_the_recipe_says_is_done(toy: Toy, change: dict[str, Any]) -> None:
    samples, recipe = toy(12), RECIPE.model_copy(update={"epochs": 1})
    assert not _same(_fit(samples, recipe), _fit(samples, recipe.model_copy(update=change)))


def test_smoothed_labels_cost_what_the_formula_says(toy: Toy) -> None:
    samples, model = toy(6), _fit(toy(6), RECIPE.model_copy(update={"epochs": 1}))
    (batch,) = samples.batches(6)
    with torch.no_grad():
        logits, loss = model(batch.images), float(cross_entropy(model, smoothing=0.3)(batch))
    wanted = 0.7 * nn.functional.one_hot(batch.labels, 3) + 0.1
    assert loss == pytest.approx(float(-(wanted * logits.log_softmax(1)).sum(1).mean()), rel=1e-5)


@pytest.fixture(scope="module")
def fresh(toy: Toy) -> Classifier:
    """What an uninterrupted run on eight images ends with."""
    return _fit(toy(8))


@pytest.mark.parametrize(
    ("damage", "quantizer"),
    [
        ("empty", "learned_step"),
        ("noise", "learned_step"),
        ("truncated", "learned_step"),
        ("other images", "learned_step"),
        ("other network", "learned_step"),
        ("other network", "statistics"),
        ("odd generator", "learned_step"),
        ("no epoch", "learned_step"),
        ("one bit", "learned_step"),
    ],
)
def test_state_that_is_damaged_or_foreign_is_ignored(
    toy: Toy, fresh: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, quantizer: str
) -> None:
    samples, state = toy(8), tmp_path / "state.safetensors"
    other: dict[str, Any] = {"width": 0.25} if damage == "other network" else {}
    trained_on = toy(16) if damage == "other images" else samples
    _killed_after_an_epoch(monkeypatch, trained_on, state, quantizer=quantizer, **other)
    good = state.read_bytes()
    if damage == "empty":
        state.write_bytes(b"")
    if damage == "noise":
        state.write_bytes(bytes(range(256)) * 64)
    if damage == "truncated":
        state.write_bytes(good[: len(good) // 2])
    if damage == "one bit":
        state.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    tensors = load(good[32:])
    if damage == "no epoch":
        state.write_bytes(_with_digest({k: v for k, v in tensors.items() if k != "epoch"}))
    if damage == "odd generator":
        state.write_bytes(_with_digest({**tensors, "generator": torch.zeros(3)}))
    expected = fresh if quantizer == "learned_step" else _fit(samples, quantizer=quantizer)
    assert _same(expected, _fit(samples, resume=state, quantizer=quantizer))
    assert not state.exists()


def _with_digest(tensors: dict[str, torch.Tensor]) -> bytes:
    """A state as it is stored: its SHA-256, then its tensors."""
    return hashlib.sha256(save(tensors)).digest() + save(tensors)


@pytest.mark.parametrize("change", [{"seed": 5}, {"lr": 0.01}, {"epochs": 4}])
def test_state_of_another_run_is_ignored(
    toy: Toy, fresh: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    samples, state = toy(8), tmp_path / "state.safetensors"
    _killed_after_an_epoch(monkeypatch, samples, state, RECIPE.model_copy(update=change))
    assert _same(fresh, _fit(samples, resume=state))


def test_diverging_run_is_an_error(toy: Toy) -> None:
    with pytest.raises(UnlearnError, match="the loss is not finite"):
        _fit(toy(16), RECIPE.model_copy(update={"lr": 1e30, "epochs": 2}))


def test_empty_training_set_is_an_error(toy: Toy) -> None:
    with pytest.raises(UnlearnError, match="the training set is empty"):
        _fit(toy(0))


def test_cosine_rises_linearly_and_falls_to_zero() -> None:
    found = [cosine(step, 10, 2) for step in range(11)]
    expected = [0.5, 1.0] + [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(9)]
    assert found == pytest.approx(expected)
    assert cosine(0, 0, 0) == 1.0


def test_schedule_is_followed(network: Callable[..., Classifier]) -> None:
    model = network()
    sgd = Optimization(epochs=4, lr=0.5, warmup=1.0, scale_lr=0.1, precision="float32")
    descent = Descent(model, sgd, 8, Progress())
    seen = []
    for _ in range(8):
        seen.append([g["lr"] for g in descent.optimizer.param_groups])
        descent.step(lambda images: model(images).square().sum() * 0, torch.rand(2, 1, 8, 8))
    assert [s[0] for s in seen] == pytest.approx([0.5 * cosine(t, 8, 2) for t in range(8)])
    assert [s[2] for s in seen] == pytest.approx([0.05 * cosine(t, 8, 2) for t in range(8)])


@pytest.mark.parametrize("scale_lr", [0.0, 0.1])
@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_weight_decay_acts_on_weights_only(
    network: Callable[..., Classifier], architecture: str, scale_lr: float
) -> None:
    model = network(architecture=architecture)
    descent = Descent(model, Optimization(weight_decay=0.1, scale_lr=scale_lr), 1, Progress())
    decay = {id(p): g["weight_decay"] for g in descent.optimizer.param_groups for p in g["params"]}
    assert len(decay) == sum(len(g["params"]) for g in descent.optimizer.param_groups)
    for name, parameter in model.named_parameters():
        group = parameter_group(name, model)
        if group in ("weight_scale", "activation_scale"):
            assert parameter.requires_grad == (scale_lr > 0), name
            assert decay.get(id(parameter)) == (0.0 if scale_lr else None), name
        else:
            weight = group == "weights" or name == "head.weight"
            assert decay[id(parameter)] == (0.1 if weight else 0.0), name


@pytest.mark.parametrize("quantizer", ["learned_step", "statistics"])
@pytest.mark.parametrize("scale_lr", [0.0, 0.5])
def test_scales_move_only_when_asked(
    network: Callable[..., Classifier], toy: Toy, quantizer: str, scale_lr: float
) -> None:
    model, samples = network(quantizer=quantizer), toy(8)
    sgd = Optimization(lr=0.1, scale_lr=scale_lr, precision="float32")
    descent = Descent(model, sgd, 2, Progress())
    model.train()
    (batch,) = samples.batches(8)
    model(batch.images)  # Brevitas turns its statistics into the parameter at this forward
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    descent.step(cross_entropy(model), batch)
    for name, parameter in model.named_parameters():
        scale = parameter_group(name, model) in ("weight_scale", "activation_scale")
        if scale and scale_lr == 0.0:
            assert torch.equal(parameter, before[name]), name
    moved = [n for n, p in model.named_parameters() if "scaling_impl" in n and not torch.equal(p, before[n])]
    assert bool(moved) == (scale_lr > 0)


def test_mixed_precision_trains_too(toy: Toy) -> None:
    model = _fit(toy(16), RECIPE.model_copy(update={"precision": "bfloat16"}))
    assert predict(model, toy(16)).isfinite().all()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_prediction_keeps_order_and_mode(network: Callable[..., Classifier], toy: Toy) -> None:
    model, samples = network().train(), toy(10)
    logits = predict(model, samples, batch=4)
    assert model.training
    train_mode(model, statistics=False)
    predict(model, samples)
    assert {type(m) for m in model.modules() if not m.training} == {nn.BatchNorm2d}
    model.eval()
    expected = torch.cat([model(image[None].float() / 255) for image in samples.images()])
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad
    share = (expected.argmax(1) == samples.labels).double().mean().item()
    assert accuracy(model, samples) == pytest.approx(share)
    assert math.isnan(accuracy(model, toy(0)))


def test_loss_is_counted_where_progress_is_shown(network: Callable[..., Classifier]) -> None:
    counted: list[int] = []

    class Counting(Progress):
        def advance(self, images: int) -> None:
            counted.append(images)

    model = network()
    descent = Descent(model, Optimization(precision="float32"), 2, Counting())

    def loss(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return (logits * math.nan).sum()

    descent.require_finite()
    descent.step(loss, torch.rand(7, 1, 8, 8))
    with pytest.raises(UnlearnError):
        descent.require_finite()
    assert counted == [7]
