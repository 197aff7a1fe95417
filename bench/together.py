"""How long do k retrained references take together, beside one after another?

The same references in 1, 2, 4, ... processes that share the machine: its processors are divided between them,
a GPU serves all. Starting up is not counted, training and re-quantization are.

    python bench/together.py cpu --data data/ --work work/ --network resnet18-w4a4 [--at-once 1 2 4]
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from statistics import mean, stdev

import torch
from shared.cells import GRIDS, Bench, Network, grid_at, parser_of
from shared.record import write

from qmu_edge.errors import ConfigError


def bench_of(options: argparse.Namespace) -> Bench:
    """What the references are retrained for."""
    grid = grid_at(GRIDS / f"{options.grid}.toml")
    entry = grid["networks"][options.network]
    entry["train"]["epochs"] = options.epochs
    folder = options.work / f"together-{options.grid}-{options.epochs}"  # its original has learned less
    return Network(options.network, grid, options.data, folder).bench("random-10", 0)


def serve(options: argparse.Namespace) -> None:
    """A process that waits for a line on standard input and then trains its references."""
    torch.set_num_threads(options.threads)
    bench = bench_of(options)
    bench.original()
    print("ready", flush=True)
    sys.stdin.readline()
    for seed in options.seeds:
        replace(bench, draw=seed).unlearned("retrain", {})
    print("done", flush=True)


def seconds(options: argparse.Namespace, at_once: int) -> float:
    """Wall-clock time of all references in `at_once` processes."""
    shared = ["--data", options.data, "--work", options.work, "--network", options.network]
    command = [sys.executable, __file__, options.grid, *shared, "--epochs", options.epochs]
    command += ["--threads", max(1, options.threads // at_once)]
    parts = [range(part, options.references, at_once) for part in range(at_once)]
    workers = [
        subprocess.Popen(
            [str(c) for c in (*command, "--seeds", *part)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for part in parts
    ]  # fmt: skip
    _all_say(workers, "ready")
    start = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    _all_say(workers, "done")
    spent = time.perf_counter() - start
    for worker in workers:
        worker.communicate()
    return spent


def _all_say(workers: list[subprocess.Popen[str]], word: str) -> None:
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != word:
            raise ConfigError(f"a process ended before it was {word}")


def main() -> None:
    """Time all numbers of processes in turns; write bench/results/together-<grid>.json."""
    parser = parser_of(__doc__)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="Of the processor, all processes together.")
    parser.add_argument("--seeds", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seeds is not None:
        serve(options)
        return
    found: dict[int, list[float]] = {k: [] for k in options.at_once}
    for _ in range(options.rounds):
        for k, times in found.items():
            times.append(seconds(options, k))
            print(f"{k} at once: {times[-1]:.1f} s", file=sys.stderr)
    base = mean(found[options.at_once[0]])
    rows = {
        str(k): {"seconds": mean(t), "deviation": stdev(t) if len(t) > 1 else 0.0, "ratio": mean(t) / base}
        for k, t in found.items()
    }
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "work", "seeds")}
    print(write(f"together-{options.grid}", settings, rows), rows)


if __name__ == "__main__":
    main()
