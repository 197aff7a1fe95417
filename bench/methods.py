"""Which method forgets best, at what price? Every method, on every network and scenario, over seeds.

One cell is one method on one network, scenario and seed, within one budget, beside two retrained networks.
Every accuracy comes from the exported file under onnxruntime. Cells are stored one by one under --work: a
killed run goes on where it stopped, and runs of different parts (--seeds, --methods, ...) go side by side.
What was asked for is printed in the end, with its distance from retraining; `--collect` writes all cells that
are there to bench/results/methods-<grid>.json.

    python bench/methods.py cpu --data data/ --work work/ [--methods qmul lotus] [--trials 6]
    python bench/methods.py cpu --work work/ --collect

With `--ray local`, or the address of a Ray cluster (the extra "cluster"), cells are computed by
all its machines at once; they see --data, --work and this checkout under the same paths.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from shared.cells import GRIDS, Bench, Network, epochs_of, grid_at, score
from shared.compared import grouped, table_of
from shared.record import ROOT, commit, write
from shared.search import STEP, TRIALS, best, searched, stopped

from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.io.files import write_atomic
from qmu_edge.models.layers import Classifier
from qmu_edge.unlearn.registry import METHODS

# Rows that are not a method under its default parameters.
VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "qmul, random labels": ("qmul", {"similar_labels": False}),
    "qmul, equal weights": ("qmul", {"reweighting": False}),
    "qmul, nash": ("qmul", {"weighting": "nash"}),
    "influence, diagonal fisher": ("influence", {"variant": "diagonal_fisher"}),
    "ssd, released": ("ssd", {"variant": "released"}),
    "salun, soft": ("salun", {"variant": "soft"}),
    "held_out_match, by the network": ("held_out_match", {"noted": False}),
    "oeu, entropy": ("oeu", {"loss": "entropy"}),
    "oeu, per tensor": ("oeu", {"projection": "tensor"}),
}
REFERENCES: Final = ("original", "retrain", "retrain, again")
# What a trial multiplies: the learning rate, unless the method is steered by something else.
KNOBS: Final[dict[str, tuple[str, ...]]] = {
    "influence": ("alpha",), "fisher_forgetting": ("alpha",), "ssd": ("threshold",),
    "ficabu": ("threshold",),
    "unsir": ("impair_lr", "repair_lr"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of one table, for one seed; within `budget` epoch-equivalents where the row has one."""

    network: str
    scenario: str
    row: str
    seed: int
    budget: float | None = None

    @property
    def file(self) -> str:
        """Where it is stored, below the folder of the grid."""
        return f"{self._row}.{self.seed}.json"

    @property
    def tuned_file(self) -> str:
        """Where the parameters of its row are stored, for all seeds."""
        return f"{self._row}.tuned.json"

    @property
    def _row(self) -> str:
        within = "" if self.budget is None else f"@{self.budget:g}"
        return f"{self.network}/{self.scenario}/{self.row.replace(', ', '-').replace(' ', '_')}{within}"


def method_of(row: str) -> tuple[str, dict[str, Any]]:
    """Method and parameters of a row."""
    return ("retrain", {}) if row in REFERENCES else VARIANTS.get(row, (row, {}))


def rows_of(chosen: list[str] | None) -> list[str]:
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
                for budget in (None, *(options.budgets or grid["budgets"])):
                    for row in rows_of(options.methods):
                        if (epochs_of(method_of(row)[0]) is None) == (budget is None):
                            yield Cell(network, scenario, row, seed, budget)


Outcome = tuple[Classifier, dict[str, float]]  # a network, and what it cost


def best_trial(cell: Cell, bench: Bench, trials: int) -> tuple[dict[str, Any], Outcome | None]:
    """The best of `trials` settings of the row's knob, by data that deployment has, and what it made.

    Never by test images or a retrained network; the same number of trials for every method that has a knob
    (not `influence`, which searches by itself).

    Returns:
        `params`, all `trials` with their scores, and whether the best lies inside them or at their border;
        and the outcome, where trials were made.
    """
    method, given = method_of(cell.row)
    given = bench.within(method, bench.common(method) | given, cell.budget)
    own = bench.params(method, given)
    values = {knob: getattr(own, knob, 0.0) for knob in KNOBS.get(method, ("lr",))}
    made: dict[float, tuple[dict[str, Any], Outcome]] = {}

    def attempt(factor: float) -> float:
        params = given | {knob: value * factor for knob, value in values.items()}
        try:
            outcome = bench.unlearned(method, params)
            found = score(bench, outcome[0])
        except QmuEdgeError as error:
            print(f"  {method} times {factor:g}: {error}", file=sys.stderr)
            return math.inf
        made[factor] = {"params": params, "score": found}, outcome
        return found

    tried = searched(attempt, trials) if trials > 1 and all(values.values()) else {}
    if not made:
        return {"params": given, "trials": []}, None
    chosen, outcome = made[STEP ** best(tried)]
    trials_made = [trial for trial, _ in made.values()]
    return {"params": chosen["params"], "trials": trials_made, "stop": stopped(tried)}, outcome


def tuned(cell: Cell, first: Bench, folder: Path, trials: int) -> tuple[dict[str, Any], Outcome | None]:
    """Parameters of a row, chosen on `first` where that is still to be done; and what they made there."""
    path, outcome = folder / cell.tuned_file, None
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            found, outcome = best_trial(cell, first, trials)
            write_atomic(path, json.dumps(found).encode())
    params: dict[str, Any] = json.loads(path.read_text("utf-8"))["params"]
    return params, outcome


def run(cell: Cell, network: Network, folder: Path, grid: dict[str, Any], trials: int) -> dict[str, Any]:
    """Compute a cell; a method that refuses or fails is a result too.

    Parameters are chosen once, on the first seed of the grid, and kept for all; for some scenarios, where
    the grid says so, on another one.
    """
    bench = network.bench(cell.scenario, cell.seed)
    if cell.row == "original":
        return bench.measured(bench.original(), {}, 0.0)
    method, _ = method_of(cell.row)
    params: dict[str, Any] = {}
    outcome = None
    try:
        if cell.row not in REFERENCES:
            first = network.bench(network.tuned_as.get(cell.scenario, cell.scenario), grid["seeds"][0])
            params, outcome = tuned(replace(cell, scenario=first.scenario), first, folder, trials)
            if (first.scenario, first.seed) != (bench.scenario, bench.seed):
                outcome = None
        if outcome is None:
            again = 1000 if cell.row == "retrain, again" else 0
            outcome = replace(bench, draw=bench.draw + again).unlearned(method, params)
        model, cost = outcome
        return bench.measured(model, params, cost["seconds"]) | cost
    except QmuEdgeError as error:
        return {"error": f"{type(error).__name__}: {error}"}


@dataclass
class Desk:
    """Computes cells in this process; networks stay in memory from one cell to the next."""

    grid: dict[str, Any]
    folder: Path
    data: Path | None
    trials: int
    threads: int
    networks: dict[str, Network] = field(default_factory=dict)
    commit: str = field(default_factory=commit)

    def serve(self, cell: Cell) -> None:
        """Compute a cell and store it; nothing when another process has done so."""
        path = self.folder / cell.file
        if path.is_file():
            return
        torch.set_num_threads(self.threads)
        if cell.network not in self.networks:
            self.networks[cell.network] = Network(cell.network, self.grid, self.data, self.folder)
        found = run(cell, self.networks[cell.network], self.folder, self.grid, self.trials)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {"commit": self.commit, "threads": self.threads}
        write_atomic(path, json.dumps(asdict(cell) | made | found).encode())


def one_by_one(wanted: list[Cell], grid: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """All cells in this process."""
    desk = Desk(grid, folder, options.data, options.trials, options.threads)
    clock = Clock(len(wanted), options.minutes)
    for number, cell in enumerate(wanted):
        if clock.over():
            return
        clock.say(number, cell)
        desk.serve(cell)


def over_ray(wanted: list[Cell], grid: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """As many cells at once as the cluster has processors for, or GPUs where there are some."""
    import ray

    places = [str(ROOT / "bench"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    ray.init(address=options.ray, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(places)}})
    gpus = ray.cluster_resources().get("GPU", 0)
    need = {"num_gpus": 1 / options.per_gpu} if gpus else {"num_cpus": options.threads}
    count = int(gpus * options.per_gpu or ray.cluster_resources()["CPU"] // options.threads)
    keeper = ray.remote(**need)(Desk)
    paths = [p.resolve() if p else None for p in (folder, options.data)]
    desks = [keeper.remote(grid, *paths, options.trials, options.threads) for _ in range(max(1, count))]
    clock, waiting = Clock(len(wanted), options.minutes), list(enumerate(wanted))
    busy: dict[Any, Any] = {}
    while busy or waiting:
        while waiting and desks and not clock.over():
            number, cell = waiting.pop(0)
            clock.say(number, cell)
            desk = desks.pop()
            busy[desk.serve.remote(cell)] = desk
        if not busy:
            return
        (done,), _ = ray.wait(list(busy), num_returns=1)
        desks.append(busy.pop(done))
        ray.get(done)  # an error of the cell's process


class Clock:
    """Says what is computed and how long the rest will take."""

    def __init__(self, count: int, minutes: float | None) -> None:
        """Start it for `count` cells; it is over after `minutes`."""
        self.count, self.minutes, self.started = count, minutes, time.monotonic()

    def over(self) -> bool:
        """Whether no further cell may begin."""
        return self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes

    def say(self, number: int, cell: Cell) -> None:
        """A line about the next cell, counted from 0."""
        each = (time.monotonic() - self.started) / number if number else 0.0
        left = f"{each * (self.count - number) / 60:.0f} min left" if number else ""
        print(f"{number + 1}/{self.count} {cell.file} {left}", file=sys.stderr)


def stored(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The cells that are there."""
    return [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]


def collect(name: str, grid: dict[str, Any], folder: Path) -> Path:
    """Write all stored cells as one result file."""
    found = [path for path in sorted(folder.glob("*/*/*.json")) if not path.name.endswith(".tuned.json")]
    return write(f"methods-{name}", {"grid": grid}, stored(found))


def main() -> None:
    """Run what is missing, or collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", help="A file in bench/grids, without .toml, or a path.")
    parser.add_argument("--data", type=Path, help="Folder of the image folders that the grid names.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--scenarios", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--budgets", nargs="+", type=float, help="Epoch-equivalents.")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="Begin no cell later than this.")
    parser.add_argument("--ray", metavar="ADDRESS", help="`local`, or a Ray cluster.")
    parser.add_argument("--per-gpu", type=int, default=1, help="With --ray: cells at once on each GPU.")
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    path = Path(options.grid)
    if path.suffix != ".toml":
        path = GRIDS / f"{options.grid}.toml"
    grid, folder = grid_at(path), options.work / path.stem
    if options.collect:
        print(collect(path.stem, grid, folder))
        return
    asked = list(cells(grid, options))
    wanted = [c for c in asked if not (folder / c.file).is_file()]
    (over_ray if options.ray else one_by_one)(wanted, grid, folder, options)
    for names, rows in grouped(stored(folder / c.file for c in asked)).items():
        print(table_of(*names, rows), end="\n\n")


if __name__ == "__main__":
    main()
