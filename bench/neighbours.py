"""What does a training lose beside another process, and what does it cost alone to give way?

Trainings of the digits recipe in processes of their own, on the processors that this one may use: one alone,
two side by side, one beside a process that keeps a processor busy. By default, with the number of threads
kept, with one thread, and with threads that spin for so many turns and then sleep (`--spins`). The cases take
turns, round by round, each time in new processes.

    python bench/neighbours.py [--rounds 5] [--seconds 3] [--spins 0 10000 100000]
"""

import argparse
import os
import subprocess
import sys
from statistics import mean, median, stdev
from typing import Any, Final

from shared.record import write

from qmu_edge.machine.processors import DYNAMIC, POLICY, SPINS, THREADS, WAITING, processors

WORKER: Final = """
import sys, time
import torch
from qmu_edge.data.sources import load
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Shape
from qmu_edge.project.recipes import recipe_text
from qmu_edge.recipe import parse_recipe
from qmu_edge.train.batches import Augment, on_device
from qmu_edge.train.fit import fit

class Enough(Exception):
    pass

class Timed(Progress):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.images, self.begun = seconds, 0, None
    def advance(self, images):
        now = time.perf_counter()
        if self.begun is None:  # the first step is warm-up
            self.begun = now
            return
        self.images += images
        self.rate = self.images / (now - self.begun)
        if now - self.begun > self.seconds:
            raise Enough

recipe = parse_recipe(recipe_text("digits-resnet18-w4a4"), "recipe")
source = load(recipe.data, Progress())
samples = on_device(source.images, source.labels, torch.device("cpu"), limit_bytes=1 << 40)
shape = Shape(
    channels=source.images.shape[1], classes=len(source.class_names),
    mean=recipe.data.mean, std=recipe.data.std,
)

def rate(seconds):
    progress = Timed(seconds)
    try:
        fit(build(recipe.model, shape, 0), samples, recipe.train,
            Augment.of(recipe.data), progress=progress)
    except Enough:
        return progress.rate

rate(1)
print("ready", flush=True)
for line in sys.stdin:
    print(rate(float(line)), flush=True)
"""
BUSY: Final = "while True: pass"
CASES: Final = (("alone", 1, 0), ("two", 2, 0), ("beside a busy process", 1, 1))  # trainings, busy processes


class Worker:
    """A process that trains for so many seconds whenever it is asked to."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it and wait until it is ready."""
        clean = {k: v for k, v in os.environ.items() if k not in (DYNAMIC, THREADS, *WAITING)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER], env={**clean, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if self.answer() != "ready\n":
            raise SystemExit("a worker could not begin")

    def ask(self, seconds: float) -> None:
        """Let it train."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)

    def answer(self) -> str:
        """Images a second of the last training."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def together(workers: list[Worker], seconds: float) -> float:
    """Images a second of all workers at the same time."""
    for worker in workers:
        worker.ask(seconds)
    return sum(float(worker.answer()) for worker in workers)


def measure(policies: dict[str, dict[str, str]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of each policy alone, of two trainings together, and beside a busy process."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, policy in policies.items():
            for case, workers, neighbours in CASES:
                found.setdefault(f"{name}, {case}", []).append(_once(policy, workers, neighbours, seconds))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return found


def _once(policy: dict[str, str], workers: int, neighbours: int, seconds: float) -> float:
    """In new processes, which know nothing of the neighbours before."""
    trainings = [Worker(policy) for _ in range(workers)]
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
    try:
        return together(trainings, seconds)
    finally:
        for process in busy:
            process.kill()
            process.wait()
        for worker in trainings:
            worker.end()


def main() -> None:
    """Measure all policies; write bench/results/neighbours-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--spins", type=int, nargs="*", default=[])
    options = parser.parse_args()
    threads = {THREADS: str(processors({}).threads)}
    policies = {"defaults": {}, "never fewer threads": {DYNAMIC: "false"}, "one thread": {THREADS: "1"}}
    policies |= {
        f"{n} spins": {DYNAMIC: "false", POLICY: "PASSIVE", **threads, SPINS: str(n)} for n in options.spins
    }
    rates = measure(policies, options.rounds, options.seconds)
    base = median(rates["never fewer threads, alone"])
    results: dict[str, Any] = {
        name: {
            "images_per_s": median(values), "mean": mean(values), "deviation": stdev(values),
        }
        for name, values in rates.items()
    }  # fmt: skip
    settings = {"rounds": options.rounds, "seconds": options.seconds, "threads": processors({}).threads}
    print(write("neighbours-cpu", settings, results))
    for name, row in results.items():
        ratio = row["images_per_s"] / base
        print(f"{name:40} {row['images_per_s']:7.0f} ±{row['deviation']:4.0f}  {ratio:.2f}")


if __name__ == "__main__":
    main()
