"""One table runs every method; adding one without a row fails."""

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.data import Augment, ForgetRetain, Samples
from qmu_edge.errors import ConfigError, UnlearnError
from qmu_edge.export import ExportPlan, export
from qmu_edge.models import ARCHITECTURES, build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers import PRESETS
from qmu_edge.models.scales import parameter_group
from qmu_edge.progress import Progress
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.requantize import requantize
from qmu_edge.train import predict
from qmu_edge.unlearn import METHODS, apply, method, parameters

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]
TRAIN = TrainRecipe(epochs=1, batch=8, lr=0.05, warmup=0.0, precision="float32")
DROPOUT = {"architecture": "mobilenet_v2", "activation_bits": "float"}
TABLE: dict[str, dict[str, Any]] = {
    "qmul": {"epochs": 1, "batch": 8, "lr": 0.05},
    "random_label": {"epochs": 1, "batch": 8, "lr": 0.05},
    "grad_ascent": {"epochs": 1, "batch": 8, "lr": 0.01},
    "finetune": {"epochs": 1, "batch": 8, "lr": 0.05},
    "retrain": {},
}


def _sets(toy: Toy) -> ForgetRetain:
    everything = toy(12)
    forget, retain = everything.take(torch.arange(4)), everything.take(torch.arange(4, 12))
    return ForgetRetain(forget=forget, retain=retain, validation=toy(6, seed=1), augment=Augment(pad=1))


def _run(name: str, model: Classifier, data: ForgetRetain, seed: int = 0, **changes: Any) -> Classifier:
    params = parameters(name, {**TABLE[name], **changes}, TRAIN)
    return apply(name, model, data, params, torch.Generator().manual_seed(seed))


def _same(a: Classifier, b: Classifier) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_every_method_has_a_row() -> None:
    assert set(TABLE) == set(METHODS)


def _rows() -> list[Any]:
    """All combinations; MobileNetV2 under statistics takes its time, and runs always in one method."""
    rows = product(TABLE, ARCHITECTURES, PRESETS)
    slow = ("mobilenet_v2", "statistics")
    return [
        pytest.param(*row, marks=pytest.mark.slow if row[1:] == slow and row[0] != "qmul" else [])
        for row in rows
    ]


@pytest.mark.parametrize(("name", "architecture", "preset"), _rows())
def test_method_changes_the_weights_and_leaves_the_scales(
    name: str, architecture: str, preset: str, network: Network, toy: Toy
) -> None:
    model = network(architecture=architecture, quantizer=preset)
    original = copy.deepcopy(model)
    result = _run(name, model, _sets(toy))

    assert not result.training
    assert all(v.isfinite().all() for v in result.state_dict().values())
    assert predict(result, toy(6)).isfinite().all()
    assert all(p.requires_grad for p in result.parameters())
    before = dict(original.named_parameters())
    changed = {n for n, p in result.named_parameters() if not torch.equal(p, before[n])}
    groups = [parameter_group(n, result) for n in changed]
    assert groups.count("weights") > 15
    if METHODS[name].category == "approximate":
        assert not {"weight_scale", "activation_scale"} & {*groups}


@pytest.mark.parametrize(
    ("name", "model"),
    [*((name, {}) for name in TABLE), ("finetune", DROPOUT)],
)
def test_seed_alone_decides_the_result(name: str, model: dict[str, Any], network: Network, toy: Toy) -> None:
    first = _run(name, network(**model), _sets(toy))
    torch.rand(3)
    assert _same(first, _run(name, network(**model), _sets(toy)))
    assert not _same(first, _run(name, network(**model), _sets(toy), seed=1))


@pytest.mark.parametrize("name", TABLE)
def test_empty_forget_set_and_missing_grids_are_refused(name: str, network: Network, toy: Toy) -> None:
    data = _sets(toy)
    empty = ForgetRetain(forget=toy(0), retain=data.retain, validation=data.validation)
    with pytest.raises(UnlearnError, match="the forget set is empty"):
        _run(name, network(), empty)
    with pytest.raises(UnlearnError, match="calibrate or train the network first"):
        _run(name, build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), 0), data)


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"grad_ascent"}))
def test_method_that_reads_retain_images_refuses_to_go_without(name: str, network: Network, toy: Toy) -> None:
    data = _sets(toy)
    with pytest.raises(UnlearnError, match="the retain set is empty"):
        _run(name, network(), ForgetRetain(forget=data.forget, retain=toy(0), validation=data.validation))


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"retrain"}))
def test_divergence_is_an_error(name: str, network: Network, toy: Toy) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("head.bias")[1] = torch.nan
    with pytest.raises(UnlearnError, match="the loss is not finite"):
        _run(name, model, _sets(toy))


@pytest.mark.parametrize("name", ["retrain", "finetune"])
def test_forget_images_are_never_read(name: str, network: Network, toy: Toy) -> None:
    clean, poisoned = _sets(toy), _sets(toy)
    poisoned.forget.pool[:4] = 255
    poisoned.forget.labels[:] = 99  # no such class: reading one raises
    poisoned.validation.labels[:] = 99
    first = _run(name, network(), clean)
    assert _same(first, _run(name, network(), poisoned))
    poisoned.retain.pool[4:] = 255
    assert not _same(first, _run(name, network(), poisoned))


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
    data = _sets(toy)
    model = _run(name, network(activation_bits="float"), data)  # a smaller graph to trace
    requantize(model, data.retain, batch=6, seed=0, progress=Progress())
    images = toy(64, seed=2)
    (file,) = export(
        model, ExportPlan(formats=("integer",), class_names=("a", "b", "c")),
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
    monkeypatch.setattr("qmu_edge.train.SAVE_EVERY_S", -1.0)
    assert _same(_run("retrain", network(), data), _run("retrain", network(), with_state))
    assert not path.exists()
