"""Ten deletion requests in a row: does a method that serves each of them still forget all, and keep the rest?

Each request names another share of the training images. The method goes on from the network that the request
before has left, on a retain set without all requests so far. After each, the exported file is measured: FA on
everything forgotten so far, RA, TA; after the last, beside a network retrained without all of it. Where the
grid has tuned a method for all requests together, as one, its parameters are taken. What a method and a seed
have found is kept under --work: runs of several seeds may go side by side, a killed one goes on.

    python bench/sequence.py cpu --data data/ --work work/ --network resnet18-w4a4
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from methods import Cell
from shared.cells import GRIDS, Bench, Network, epochs_of, grid_at, parser_of
from shared.record import write

from qmu_edge.io.files import write_atomic
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply

MEASURED = ("FA", "RA", "TA", "MIA", "AUC")


def requests(bench: Bench, count: int) -> list[Bench]:
    """One bench for each request: its own forget set, and what is retained after it."""
    parts = np.array_split(np.random.default_rng(bench.seed).permutation(bench.sets.forget), count)
    made, kept = [], np.union1d(bench.sets.retain, bench.sets.forget)
    for part in parts:
        kept = np.setdiff1d(kept, part)
        made.append(replace(bench, sets=replace(bench.sets, forget=np.sort(part), retain=kept)))
    return made


def tuned(bench: Bench, method: str, budget: float) -> dict[str, Any]:
    """Parameters that the grid has chosen, or those that it sets for all."""
    scenario = bench.network.tuned_as.get(bench.scenario, bench.scenario)
    within = None if epochs_of(method) is None else budget
    path = bench.network.folder / Cell(bench.network.name, scenario, method, bench.seed, within).tuned_file
    if not path.is_file():
        return bench.within(method, bench.common(method), within)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))["params"]
    return found


def served(bench: Bench, count: int, method: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Serve all requests one after another; what the file does after each."""
    model: Classifier = bench.original()
    rows = []
    for number, request in enumerate(requests(bench, count)):
        data: ForgetRetain = request.data()
        generator = torch.Generator().manual_seed(bench.seed + number)
        model = apply(method, model, data, bench.params(method, params), generator)
        requantize(model, data.retain, batch=256, seed=number, progress=Progress())
        gone = np.setdiff1d(bench.sets.forget, request.sets.retain)
        found = replace(request, sets=replace(request.sets, forget=gone)).measured(
            model, {}, 0.0, relearn=False
        )
        rows.append({key: found[key] for key in MEASURED})
        print(method, number + 1, {k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return rows


def main() -> None:
    """Run the methods on one network that are not there yet; write all."""
    parser = parser_of(__doc__)
    parser.add_argument("--methods", nargs="+", default=["held_out_match", "qmul"])
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--share", type=int, default=10, help="Percent of the training images, all together.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grid = grid_at(GRIDS / f"{options.grid}.toml")
    network = Network(options.network, grid, options.data, options.work / options.grid)
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "work")} | {"grid": grid}
    found: dict[str, Any] = {method: {} for method in (*options.methods, "retrain")}
    for seed in options.seeds:
        bench = network.bench(f"random-{options.share}", seed)
        for method, by_seed in found.items():
            name = f"sequence.{options.share}-{options.requests}.{method}.{seed}.json"
            path = network.folder / network.name / name
            if not path.is_file():
                params = tuned(bench, method, grid["budgets"][0])
                rows = served(bench, 1 if method == "retrain" else options.requests, method, params)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, json.dumps(rows).encode())
            by_seed[str(seed)] = json.loads(path.read_text("utf-8"))
    print(write(f"sequence-{options.grid}", settings, found))


if __name__ == "__main__":
    main()
