"""Every number that a method's result depends on is one of its hyperparameters, and a receipt names it."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.api.project import methods
from qmu_edge.errors import ConfigError
from qmu_edge.pipeline.unlearn_run import plain
from qmu_edge.receipt.statement import Method
from qmu_edge.recipe import Recipe, TrainRecipe
from qmu_edge.train.loop import Optimization
from qmu_edge.unlearn import methods as folder
from qmu_edge.unlearn.registry import METHODS, parameters, require_known

FILES = sorted(p for p in Path(str(folder.__file__)).parent.glob("*.py") if p.stem != "__init__")
NEUTRAL = (0, 1, -1)  # they change nothing, negate or point at the end


def _numbers(tree: ast.AST) -> Iterator[float]:
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    yield from (v for v in values if isinstance(v, int | float) and v not in NEUTRAL)


def _hidden(source: str) -> list[str]:
    """Numbers that a file sets aside for itself: in a module's constant, or in what a run is set up with."""
    tree = ast.parse(source)
    places = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign)]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "Optimization" in ast.unparse(n.func)]
    return [ast.unparse(n) for n in (*places, *calls) if any(_numbers(n))]


def test_every_method_has_a_file_that_is_looked_at() -> None:
    assert {p.stem for p in FILES} == set(METHODS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_number_of_a_method_is_hidden_from_its_hyperparameters(path: Path) -> None:
    assert _hidden(path.read_text("utf-8")) == []


def test_a_hidden_number_is_found() -> None:
    assert _hidden("SHARE: Final = 0.25") and _hidden("Optimization.of(params, momentum=0.9)")
    assert not _hidden("class Params:\n    share: float = 0.25")
    assert not _hidden("x = Optimization.of(params)")


@pytest.mark.parametrize("name", METHODS)
def test_a_receipt_has_room_for_all_of_them(name: str) -> None:
    params = parameters(name, {}, TrainRecipe())
    named = plain(params)
    assert set(named) == {f.name for f in dataclasses.fields(params)} == set(methods()[name]["parameters"])
    Method.model_validate(
        {"name": name, "category": METHODS[name].category, "parameters": named, "seed": 0}, strict=True
    )


def test_settings_come_from_hyperparameters_of_the_same_name() -> None:
    params: Any = parameters("sfron", {"lr": 0.5, "momentum": 0.25, "clip_norm": 3.0}, TrainRecipe())
    found = Optimization.of(params, schedule="constant")
    assert found == Optimization(
        epochs=5, lr=0.5, momentum=0.25, weight_decay=5e-4, clip_norm=3.0, schedule="constant"
    )
    with pytest.raises(TypeError, match="multiple values"):
        Optimization.of(params, lr=1.0)


def test_a_section_of_a_method_that_does_not_exist_is_told_before_any_work() -> None:
    recipe = Recipe.model_validate({"unlearn": {"qmull": {"epochs": 3}}})
    with pytest.raises(ConfigError, match="method 'qmull' is not one of"):
        require_known(["retrain"], recipe)


def test_a_method_that_undoes_steps_of_single_images_is_refused_where_there_are_none() -> None:
    assert [name for name, method in METHODS.items() if method.sums] == ["influence"]
    parameters("influence", {}, TrainRecipe())
    parameters("held_out_match", {}, TrainRecipe(mixup=0.2))
    with pytest.raises(
        ConfigError, match=r"^method influence: .*, and train\.mixup = 0\.2 mixes two in each$"
    ):
        parameters("influence", {}, TrainRecipe(mixup=0.2))
    with pytest.raises(ConfigError, match=r"^method influence: .*, and train\.distillation = 0\.5 asks a"):
        parameters("influence", {}, TrainRecipe(distillation=0.5))
