"""What does `qmu-edge demo` show, over seeds? And what does the verdict cost a request in it?

python bench/demo.py [--seeds 0 1 2] [--work work/]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from shared.record import write

from qmu_edge.api.demo import demo

COLUMNS = ("FA", "RA", "TA", "MIA AUC")


def row(found: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Mean and deviation over seeds of one row, what is left among them."""
    columns = {name: [one[name] for one in found] for name in COLUMNS}
    columns |= {end: [one["left"][end] for one in found] for end in ("value", "low", "high")}
    return {name: [mean(values), stdev(values)] for name, values in columns.items()}


def main() -> None:
    """Run the demonstration for each seed, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    options = parser.parse_args()
    runs = [demo(options.work, seed=seed) for seed in options.seeds]
    rows = {name: row([run["rows"][name] for run in runs]) for name in runs[0]["rows"]}
    steps = {step: mean(run["steps"][step]["seconds"] for run in runs) for step in runs[0]["steps"]}
    outcomes = [[run["outcome"], run["verdict"]["answer"]] for run in runs]
    refused = ["nothing changed" in run["refused"] for run in runs]
    results = {"rows": rows, "seconds": steps, "outcomes": outcomes, "no-op refused": refused}
    write("demo", {"seeds": options.seeds}, results)


if __name__ == "__main__":
    main()
