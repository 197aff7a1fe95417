"""Which method forgets best, at what price? Every method, on every network and scenario, over seeds.

One cell is one method on one network, scenario and seed, beside two retrained networks. Every accuracy comes
from the exported file under onnxruntime. Cells are stored one by one under --work: a killed run goes on where
it stopped, and runs of different parts (--seeds, --methods, ...) may go side by side. `--collect` writes
bench/results/methods-<grid>.json out of all cells that are there.

    python bench/methods.py cpu --data data/ --work work/ [--methods qmul lotus] [--trials 3]
    python bench/methods.py cpu --work work/ --collect
"""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from cells import Bench, Network, score
from record import ROOT, write

from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.store import write_atomic
from qmu_edge.unlearn import METHODS

# Rows that are not a method under its default parameters.
VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "qmul, random labels": ("qmul", {"similar_labels": False}),
    "qmul, equal weights": ("qmul", {"reweighting": False}),
    "qmul, nash": ("qmul", {"weighting": "nash"}),
    "influence, diagonal fisher": ("influence", {"variant": "diagonal_fisher"}),
    "salun, soft": ("salun", {"variant": "soft"}),
    "oeu, entropy": ("oeu", {"loss": "entropy"}),
    "oeu, per tensor": ("oeu", {"projection": "tensor"}),
}
REFERENCES: Final = ("original", "retrain", "retrain, again")
# What a trial changes: the learning rate, unless the method is steered by something else.
KNOBS: Final[dict[str, str]] = {"influence": "alpha", "fisher_forgetting": "alpha", "ssd": "threshold"}
FACTORS: Final = (1.0, 0.2, 5.0, 0.04)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of one table, for one seed."""

    network: str
    scenario: str
    row: str
    seed: int

    @property
    def file(self) -> str:
        """Where it is stored, below the folder of the grid."""
        return (
            f"{self.network}/{self.scenario}/{self.row.replace(', ', '-').replace(' ', '_')}.{self.seed}.json"
        )


def method_of(row: str) -> tuple[str, dict[str, Any]]:
    """Method and parameters of a row."""
    return ("retrain", {}) if row in REFERENCES else VARIANTS.get(row, (row, {}))


def rows(chosen: list[str] | None) -> list[str]:
    """References first, then all methods and variants, or the chosen ones."""
    known = [*(m for m in METHODS if m != "retrain"), *VARIANTS]
    if unknown := [r for r in chosen or () if r not in known]:
        raise ConfigError(f"row {unknown[0]!r} is not one of {', '.join(known)}")
    return [*REFERENCES, *(chosen or known)]


def cells(grid: dict[str, Any], options: argparse.Namespace) -> Iterator[Cell]:
    """All cells that were asked for, in an order that completes comparisons early."""
    for seed in options.seeds or grid["seeds"]:
        for network in options.networks or grid["networks"]:
            for scenario in options.scenarios or grid["scenarios"]:
                for row in rows(options.methods):
                    yield Cell(network, scenario, row, seed)


def trial_params(row: str, bench: Bench, trials: int) -> dict[str, Any]:
    """The best of `trials` settings of the row's knob, by data that deployment has.

    Never by test images or a retrained network; the same number of trials for every method that has a knob
    (not `unsir`, and not `influence`, which searches by itself).
    """
    method, given = method_of(row)
    given = bench.common(method) | given
    knob = KNOBS.get(method, "lr")
    default = getattr(bench.params(method, given), knob, None)
    if trials < 2 or not default:
        return given
    found: list[tuple[float, dict[str, Any]]] = []
    for factor in FACTORS[:trials]:
        params = given | {knob: default * factor}
        try:
            model, _ = bench.unlearned(method, params)
            found.append((score(bench, model), params))
        except QmuEdgeError as error:
            print(f"  {knob} {default * factor:g}: {error}", file=sys.stderr)
    return min(found, key=lambda f: f[0])[1] if found else given


def tuned(cell: Cell, bench: Bench, folder: Path, trials: int) -> dict[str, Any]:
    """Parameters of a row, chosen once on the first seed and kept for all."""
    path = folder / f"{cell.file.rpartition('.')[0].rpartition('.')[0]}.tuned.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return kept
    params = trial_params(cell.row, bench, trials)
    write_atomic(path, json.dumps(params).encode())
    return params


def run(cell: Cell, network: Network, folder: Path, trials: int) -> dict[str, Any]:
    """Compute a cell; a method that refuses or fails is a result too."""
    bench = network.bench(cell.scenario, cell.seed)
    if cell.row == "original":
        return bench.measured(bench.original(), {}, 0.0)
    method, _ = method_of(cell.row)
    try:
        params = {} if cell.row in REFERENCES else tuned(cell, bench, folder, trials)
        again = 1 if cell.row == "retrain, again" else 0
        model, cost = replace(bench, draw=bench.draw + 1000 * again).unlearned(method, params)
        return bench.measured(model, params, cost["seconds"]) | cost
    except QmuEdgeError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def collect(name: str, grid: dict[str, Any], folder: Path) -> Path:
    """Write all stored cells as one result file."""
    found = []
    for path in sorted(folder.glob("*/*/*.json")):
        if not path.name.endswith(".tuned.json"):
            found.append(json.loads(path.read_text("utf-8")))
    return write(f"methods-{name}", {"grid": grid}, found)


def main() -> None:
    """Run what is missing, or collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", help="A file in bench/grids, without .toml.")
    parser.add_argument("--data", type=Path, help="Folder of the image folders that the grid names.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--scenarios", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="Begin no cell later than this.")
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    grid = tomllib.loads((ROOT / "bench" / "grids" / f"{options.grid}.toml").read_text("utf-8"))
    folder = options.work / options.grid
    if options.collect:
        print(collect(options.grid, grid, folder))
        return
    torch.set_num_threads(options.threads)
    wanted = [c for c in cells(grid, options) if not (folder / c.file).is_file()]
    networks: dict[str, Network] = {}
    started = time.monotonic()
    for number, cell in enumerate(wanted):
        spent = time.monotonic() - started
        if options.minutes is not None and spent > 60 * options.minutes:
            break
        if (folder / cell.file).is_file():  # another run was here meanwhile
            continue
        left = f"{spent / number * (len(wanted) - number) / 60:.0f} min left" if number else ""
        print(f"{number + 1}/{len(wanted)} {cell.file} {left}", file=sys.stderr)
        if cell.network not in networks:
            networks[cell.network] = Network(cell.network, grid, options.data, folder)
        found = run(cell, networks[cell.network], folder, options.trials)
        described = {"network": cell.network, "scenario": cell.scenario, "row": cell.row, "seed": cell.seed}
        (folder / cell.file).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / cell.file, json.dumps(described | found).encode())


if __name__ == "__main__":
    main()
