"""One table runs every method; adding one without a row fails."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.errors import ConfigError, UnlearnError
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import ARCHITECTURES, build
from qmu_edge.models.calibration import parameter_group
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import METHODS, apply, method, parameters
from tests.networks import TWO_BLOCKS
from tests.unlearn.toys import split

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
TRAIN = TrainRecipe(epochs=1, batch=8, lr=0.05, warmup=0.0, precision="float32")
DROPOUT = {"architecture": "mobilenet_v2", "activation_bits": "float"}
TABLE: dict[str, dict[str, Any]] = {
    "qmul": {"epochs": 1, "batch": 8, "lr": 0.05},
    "random_label": {"epochs": 1, "batch": 8, "lr": 0.05},
    "munba": {"epochs": 1, "batch": 4, "lr": 0.05},
    "natmu": {"epochs": 1, "batch": 8},
    "sfron": {"epochs": 1, "batch": 4, "every": 2},
    "msg": {"epochs": 1, "batch": 8, "lr": 0.05},
    "ct": {"epochs": 1, "batch": 8, "lr": 0.05},
    "grad_ascent": {"epochs": 1, "batch": 8, "lr": 0.01},
    "finetune": {"epochs": 1, "batch": 8, "lr": 0.05},
    "l1_sparse": {"epochs": 1, "batch": 8, "lr": 0.05, "gamma": 1e-3},
    "salun": {"epochs": 1, "batch": 8, "lr": 0.05},
    "influence": {"batch": 8, "fisher_batch": 4, "alpha": 0.1},
    "fisher_forgetting": {"batch": 4},
    "cf_k": {"epochs": 1, "batch": 8, "lr": 0.05},
    "eu_k": {"epochs": 1, "batch": 8, "lr": 0.05},
    "neg_grad_plus": {"epochs": 1, "batch": 8, "lr": 0.05},
    "scrub_r": {"epochs": 2, "forget_epochs": 1, "batch": 8, "lr": 0.05},
    "bad_teacher": {"batch": 8, "lr": 0.01, "statistics_batches": 2},
    "ssd": {"batch": 8, "threshold": 1.0},
    "ficabu": {"batch": 8, "threshold": 1.0},
    "regun": {"epochs": 1, "batch": 8, "lr": 0.05},
    "lotus": {"epochs": 1, "batch": 8, "lr": 0.01},
    "oeu": {"epochs": 1, "batch": 8, "lr": 0.05},
    "pgu": {"epochs": 1, "batch": 8},
    "unsir": {"noise_images": 4, "noise_steps": 2, "copies": 2, "batch": 8},
    "boundary_shrink": {"epochs": 1, "batch": 8, "lr": 0.01},
    "boundary_expand": {"epochs": 1, "batch": 8, "lr": 0.01},
    "held_out_match": {"epochs": 1, "batch": 8, "lr": 0.05},
    "retrain": {},
}


CANNOT: set[tuple[str, str]] = {("ct", "mobilenet_v2"), ("ct", "resnet50")}  # these refuse the network
LAST_BLOCKS = {"cf_k", "eu_k"}  # these refuse networks without `blocks`
CLASSES_ONLY = {"unsir"}  # these refuse a request for samples


def _sets(toy: Toy) -> ForgetRetain:
    return replace(split(toy), augment=Augment(pad=1))


def _classes(toy: Toy) -> ForgetRetain:
    """Class 2 is forgotten whole."""
    everything = toy(12)
    ours = everything.labels == 2
    return replace(
        _sets(toy), forget=everything.take(torch.nonzero(ours)[:, 0]),
        retain=everything.take(torch.nonzero(~ours)[:, 0]), classes=(2,),
        validation=toy(6, seed=1).take(torch.tensor([0, 1, 3, 4])),  # nothing is left of the class
    )  # fmt: skip


def _small(name: str, network: Network, **changes: Any) -> Classifier:
    """The smallest network that a method can serve, or another one."""
    return network(**(changes or ({} if name in LAST_BLOCKS else TWO_BLOCKS)))


def _served(name: str, toy: Toy) -> ForgetRetain:
    """Sets that the method can serve."""
    return _classes(toy) if name in CLASSES_ONLY else _sets(toy)


def _run(name: str, model: Classifier, data: ForgetRetain, seed: int = 0, **changes: Any) -> Classifier:
    params = parameters(name, {**TABLE[name], **changes}, TRAIN)
    return apply(name, model, data, params, torch.Generator().manual_seed(seed))


def _same(a: Classifier, b: Classifier) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_every_method_has_a_row_here_and_in_the_readme() -> None:
    assert set(TABLE) == set(METHODS)
    readme = (Path(__file__).parents[2] / "qmu_edge" / "unlearn" / "README.md").read_text("utf-8")
    assert [n for n in METHODS if f"| `{n}` |" not in readme] == []


def _rows() -> list[Any]:
    """All combinations; always run: each method on one, one method on all, depthwise layers in PGU."""
    rows = (row for row in product(TABLE, ARCHITECTURES, PRESETS) if row[:2] not in CANNOT)
    always = {("pgu", "mobilenet_v2", "learned_step"), *((n, "resnet18", "learned_step") for n in TABLE)}
    return [
        pytest.param(
            *row,
            marks=[] if row in always or (row[0] == "qmul" and row[1] != "resnet50") else pytest.mark.slow,
        )
        for row in rows
    ]


@pytest.mark.parametrize(("name", "architecture", "preset"), _rows())
def test_method_changes_what_it_says_and_nothing_else(
    name: str, architecture: str, preset: str, network: Network, toy: Toy
) -> None:
    model = network(architecture=architecture, quantizer=preset)
    original = copy.deepcopy(model)
    result = _run(name, model, _served(name, toy))

    assert not result.training
    assert all(v.isfinite().all() for v in result.state_dict().values())
    assert predict(result, toy(6)).isfinite().all()
    assert all(p.requires_grad for p in result.parameters())
    changed = _changed(original, result)
    assert {*changed} & {"weights", "head"}
    assert {*changed} <= METHODS[name].touches


def _changed(before: Classifier, after: Classifier) -> list[str]:
    """Group of every parameter and batch-norm buffer that differs."""
    old = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    new = [*after.named_parameters(), *((n, b) for n, b in after.named_buffers() if "running_" in n)]
    return [parameter_group(n, after) for n, tensor in new if not torch.equal(tensor, old[n])]


@pytest.mark.parametrize(
    ("name", "model"),
    [*((name, {}) for name in TABLE), ("finetune", DROPOUT)],
)
def test_seed_alone_decides_the_result(name: str, model: dict[str, Any], network: Network, toy: Toy) -> None:
    first = _run(name, _small(name, network, **model), _served(name, toy))
    torch.rand(3)
    assert _same(first, _run(name, _small(name, network, **model), _served(name, toy)))
    assert not _same(first, _run(name, _small(name, network, **model), _served(name, toy), seed=1))


@pytest.mark.parametrize("name", TABLE)
def test_empty_forget_set_and_missing_grids_are_refused(name: str, network: Network, toy: Toy) -> None:
    data = _served(name, toy)
    empty = replace(data, forget=toy(0))
    with pytest.raises(UnlearnError, match="the forget set is empty"):
        _run(name, _small(name, network), empty)
    with pytest.raises(UnlearnError, match="calibrate or train the network first"):
        _run(name, build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), 0), data)


@pytest.mark.parametrize("name", sorted(n for n in TABLE if "retain" in METHODS[n].reads))
def test_method_that_reads_retain_images_refuses_to_go_without(name: str, network: Network, toy: Toy) -> None:
    data = replace(_served(name, toy), retain=toy(0))
    with pytest.raises(UnlearnError, match="the retain set is empty"):
        _run(name, _small(name, network), data)


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"retrain", "eu_k"}))  # their head is new
def test_divergence_is_an_error(name: str, network: Network, toy: Toy) -> None:
    model = _small(name, network)
    with torch.no_grad():
        model.get_parameter("head.bias")[1] = torch.nan
    with pytest.raises(UnlearnError, match="the loss is not finite"):
        _run(name, model, _served(name, toy))


@pytest.mark.parametrize(
    ("name", "part"),
    [(n, part) for n in TABLE for part in ("forget", "retain", "validation") if part not in METHODS[n].reads],
)
def test_images_that_a_method_does_not_read_are_never_opened(
    name: str, part: str, network: Network, toy: Toy
) -> None:
    data = _served(name, toy)
    poison = Samples(
        torch.full((6, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(6),
        torch.full((6,), 99), torch.device("cpu"),
    )  # fmt: skip
    first = _run(name, _small(name, network), data)
    changes: dict[str, Any] = {part: poison}
    assert _same(first, _run(name, _small(name, network), replace(data, **changes)))


@pytest.mark.parametrize("name", TABLE)
def test_samples_are_refused_by_methods_for_classes_only(name: str, network: Network, toy: Toy) -> None:
    if name not in CLASSES_ONLY:
        _run(name, _small(name, network), _sets(toy))
        return
    with pytest.raises(UnlearnError, match=f"method {name} forgets whole classes"):
        _run(name, _small(name, network), _sets(toy))


@pytest.mark.parametrize(
    "name",
    [n if n in ("fisher_forgetting", "pgu") else pytest.param(n, marks=pytest.mark.slow) for n in TABLE],
)
def test_head_without_bias_is_served(name: str, network: Network, toy: Toy) -> None:
    model = _small(name, network)
    model.get_submodule("head").register_parameter("bias", None)
    data = _sets(toy) if name == "regun" else _classes(toy)  # regun is for samples only
    assert predict(_run(name, model, data), toy(6)).isfinite().all()


def _next(data: ForgetRetain, name: str) -> ForgetRetain:
    """The request after `data`: more of what that one kept."""
    labels = data.retain.labels
    ours = labels == 1 if name in CLASSES_ONLY else torch.arange(len(labels)) < 2
    return replace(
        data, forget=data.retain.take(torch.nonzero(ours)[:, 0]),
        retain=data.retain.take(torch.nonzero(~ours)[:, 0]), classes=(1,) if name in CLASSES_ONLY else (),
    )  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_second_request_finds_nothing_left_of_the_first_but_weights(
    name: str, network: Network, toy: Toy
) -> None:
    data = _served(name, toy)
    first = _run(name, _small(name, network), data)
    loaded = _small(name, network)
    loaded.load_state_dict(copy.deepcopy(first.state_dict()))
    second = _run(name, first, _next(data, name))
    assert _same(second, _run(name, loaded, _next(data, name)))
    assert predict(second, toy(6)).isfinite().all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in second.modules())


def test_retraining_starts_from_nothing_of_the_original(network: Network, toy: Toy) -> None:
    original = network()
    other = copy.deepcopy(original)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "scaling_impl" not in name:
                parameter.normal_()
    assert _same(_run("retrain", original, _sets(toy)), _run("retrain", other, _sets(toy)))


def test_gradient_ascent_leaves_batch_norm_statistics(network: Network, toy: Toy) -> None:
    model = network()
    before = copy.deepcopy(dict(model.named_buffers()))
    result = _run("grad_ascent", model, _sets(toy))
    assert all(torch.equal(v, before[k]) for k, v in result.named_buffers())


@pytest.mark.filterwarnings("default")  # tracing: torch and brevitas warn about themselves
@pytest.mark.parametrize(
    "name", ["qmul", *(pytest.param(n, marks=pytest.mark.slow) for n in TABLE if n != "qmul")]
)
def test_result_is_exported_through_all_gates(name: str, network: Network, toy: Toy) -> None:
    data = _served(name, toy)
    model = _run(name, network(activation_bits="float"), data)  # a smaller graph to trace
    requantize(model, data.retain, batch=6, seed=0, progress=Progress())
    images = toy(64, seed=2)
    (file,) = export(
        model, ExportPlan(formats=(Format.INTEGER,), class_names=("a", "b", "c")),
        images=images.images().numpy(), min_agreement=0.99, min_inputs=64,
    )  # fmt: skip
    assert file.parity.n >= 32


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("qmul", {"learning_rate": 0.1}, "unlearn.qmul.learning_rate: unknown; allowed are epochs, lr"),
        ("qmul", {"epochs": "3"}, "unlearn.qmul.epochs: "),
        ("qmul", {"epochs": 1.5}, "unlearn.qmul.epochs: "),
        ("qmul", {"epochs": True}, "unlearn.qmul.epochs: "),
        ("qmul", {"epochs": 0}, "unlearn.qmul.epochs: "),
        ("qmul", {"loop": "both"}, "unlearn.qmul.loop: "),
        ("qmul", {"norm": "l2"}, "unlearn.qmul.norm: "),
        ("qmul", {"similar_labels": 1}, "unlearn.qmul.similar_labels: "),
        ("qmul", {"scale_lr": -0.1}, "unlearn.qmul.scale_lr: "),
        ("finetune", {"lr": "fast"}, "unlearn.finetune.lr: "),
        ("finetune", {"lr": float("nan")}, "unlearn.finetune.lr: "),
        ("random_label", {"batch": 0}, "unlearn.random_label.batch: "),
        ("grad_ascent", {"lr": 0.0}, "unlearn.grad_ascent.lr: "),
        ("retrain", {"epochs": 3}, "unlearn.retrain.epochs: unknown; allowed are train"),
        ("forget", {}, "method 'forget' is not one of qmul, random_label"),
    ],
)
def test_wrong_parameter_is_refused_by_its_name(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parameters(name, given, TRAIN)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("images", [pytest.param((1, 5), marks=pytest.mark.slow), (3, 7)], ids=str)
def test_batches_of_two_of_an_odd_number_are_served(
    name: str, images: tuple[int, int], network: Network, toy: Toy
) -> None:
    data = _served(name, toy)
    forget, retain = (
        s.take(torch.arange(n)) for s, n in zip((data.forget, data.retain), images, strict=True)
    )
    changes = {"batch": 2} if "batch" in TABLE[name] else {}
    params = parameters(name, {**TABLE[name], **changes}, TRAIN.model_copy(update={"batch": 2}))
    sets = replace(data, forget=forget, retain=retain)
    result = apply(name, _small(name, network), sets, params, torch.Generator().manual_seed(0))
    assert all(value.isfinite().all() for value in result.state_dict().values())


@pytest.mark.parametrize("name", TABLE)
def test_batches_of_one_are_for_methods_without_batch_statistics(name: str) -> None:
    given, train = ({"batch": 1}, TRAIN) if name != "retrain" else ({}, TRAIN.model_copy(update={"batch": 1}))
    if "bn_stats" not in METHODS[name].touches:
        assert parameters(name, given, train).batch == 1
        return
    where = "train" if name == "retrain" else f"unlearn.{name}"
    with pytest.raises(ConfigError, match=rf"{where}.batch: found 1, allowed at least 2"):
        parameters(name, given, train)


def test_parameters_override_defaults() -> None:
    found = parameters("qmul", {"epochs": 3, "lr": 1}, TRAIN)
    assert (found.epochs, found.lr, found.batch) == (3, 1, 128)
    assert parameters("retrain", {}, TRAIN).train == TRAIN
    assert method("retrain").category == "exact"


def test_retraining_continues_after_a_kill(
    network: Network, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _sets(toy)
    path = tmp_path / "state"
    with_state = ForgetRetain(
        forget=data.forget, retain=data.retain, validation=data.validation, augment=data.augment, state=path
    )
    monkeypatch.setattr("qmu_edge.train.fit.SAVE_EVERY_S", -1.0)
    assert _same(_run("retrain", network(), data), _run("retrain", network(), with_state))
    assert not path.exists()
