"""How a row of the benchmarks is tuned: the search on made-up scores, the score, budgets and their tables."""

import argparse
import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qmu_edge.train.batches import Samples
from qmu_edge.unlearn.registry import METHODS
from tests.unlearn.toys import split

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of the benchmarks, by its name."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


@pytest.mark.parametrize("top", [-4.0, -2.6, -1.0, -0.3, 0.0, 0.4, 1.0, 2.6, 4.0])
def test_search_goes_on_until_the_best_lies_inside(part: Callable[[str], Any], top: float) -> None:
    search = part("shared.search")
    tried = search.searched(lambda factor: abs(math.log(factor, search.STEP) - top), 7)
    assert len(tried) == len(set(tried)) == 7
    assert search.stopped(tried) == "inside"
    assert abs(search.best(tried) - top) <= 0.5


def test_search_that_ends_at_its_border_says_so(part: Callable[[str], Any]) -> None:
    search = part("shared.search")
    tried = search.searched(lambda factor: -factor, 4)
    assert list(tried) == [0.0, 1.0, 2.0, 3.0]
    assert search.stopped(tried) == "border"


def test_setting_that_fails_is_a_border_that_was_tried(part: Callable[[str], Any]) -> None:
    search = part("shared.search")
    tried = search.searched(lambda factor: math.inf if factor > 1.0 else -factor, 4)
    assert list(tried)[:3] == [0.0, 1.0, -1.0]
    assert (search.best(tried), search.stopped(tried)) == (0.0, "inside")


def test_where_nothing_helps_the_methods_own_setting_is_kept(part: Callable[[str], Any]) -> None:
    search = part("shared.search")
    assert search.best(search.searched(lambda factor: 0.0, 6)) == 0.0


def test_score_reads_retain_images_of_all_classes(
    part: Callable[[str], Any], toy: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, everything = part("shared.cells"), toy(30)
    order = everything.labels.argsort(stable=True)  # as an image folder is: class after class
    data = replace(split(toy), retain=everything.take(order))
    seen: list[set[int]] = []

    def spy(model: Any, samples: Samples) -> float:
        seen.append(set(samples.labels.tolist()))
        return 0.5

    monkeypatch.setattr(cells, "accuracy", spy)
    monkeypatch.setattr(cells, "MEASURED", 10)
    cells.score(SimpleNamespace(data=lambda: data, sets=SimpleNamespace(classes=())), None)
    assert seen[-1] == {0, 1, 2}


def test_methods_that_read_retain_images_have_a_budget_and_the_others_their_own_passes(
    part: Callable[[str], Any],
) -> None:
    epochs_of = part("shared.cells").epochs_of
    own = {name for name in METHODS if epochs_of(name) is None}
    assert {n for n in own if "retain" in METHODS[n].reads} == {
        "influence", "fisher_forgetting", "ssd", "ficabu", "retrain",
    }  # fmt: skip
    assert {"grad_ascent", "boundary_shrink", "boundary_expand"} <= own
    assert epochs_of("unsir") == "repair_epochs" and epochs_of("qmul") == "epochs"


def test_passes_are_as_many_as_the_budget_pays_for(
    part: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = part("shared.cells")
    monkeypatch.setattr(cells.Bench, "original", lambda self: None)
    monkeypatch.setattr(
        cells.Bench, "_applied",
        lambda self, name, model, given: (None, {"epoch_equivalents": 0.5 + 0.9 * given["epochs"]}),
    )  # fmt: skip
    bench = cells.Bench(None, "random-10", 0, None, 0)
    assert bench.within("qmul", {"lr": 0.1}, 4.0) == {"lr": 0.1, "epochs": 3}
    assert bench.within("grad_ascent", {"lr": 0.1}, 4.0) == {"lr": 0.1}


def test_a_row_within_two_budgets_has_two_cells_and_a_reference_one(part: Callable[[str], Any]) -> None:
    methods = part("methods")
    grid = {"seeds": [0], "networks": ["n"], "scenarios": ["class-0"], "budgets": [4, 12]}
    options = argparse.Namespace(
        seeds=None, networks=None, scenarios=None, budgets=None, methods=["qmul", "grad_ascent"]
    )
    files = [cell.file for cell in methods.cells(grid, options)]
    rows = ("original", "retrain", "retrain,_again", "grad_ascent", "qmul@4", "qmul@12")
    assert files == [f"n/class-0/{row.replace(',_', '-')}.0.json" for row in rows]


def test_tables_show_each_budget_beside_the_rows_that_have_none(part: Callable[[str], Any]) -> None:
    def cell(row: str, **more: Any) -> dict[str, Any]:
        return {"network": "n", "scenario": "class-0", "row": row, "seed": 0} | more

    grouped = part("shared.compared").grouped
    found = grouped([cell("retrain"), cell("qmul", budget=12.0), cell("qmul", budget=4.0, FA=0)])
    assert {names: sorted(rows) for names, rows in found.items()} == {
        ("n", "class-0"): ["qmul", "retrain"], ("n", "class-0 at 12"): ["qmul", "retrain"],
    }  # fmt: skip
    assert "FA" in found["n", "class-0"]["qmul"][0]
    assert list(grouped([cell("retrain"), cell("qmul")])) == [("n", "class-0")]


def test_each_table_names_the_machine_of_its_own_grid(
    part: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = part("shared.compared")

    def load(grid: str) -> dict[str, Any]:
        shares = dict.fromkeys(("FA", "RA", "TA", "MIA"), 1.0)
        rows = ("original", "retrain")
        cells = [{"network": "n", "scenario": "few-5", "row": row, "seed": 0, **shares} for row in rows]
        return {"machine": {"cpu": f"the machine of {grid}"}, "results": cells}

    monkeypatch.setattr(compared, "load", load)
    assert "the machine of methods-own, one thread" in compared.own()
    assert "the machine of methods-cpu, one thread" in compared.scenarios()
    assert "the machine of methods-cpu, one thread" in compared.methods()
