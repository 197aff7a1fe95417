"""What does a project of a million samples cost: opening its index, resolving a person, `status`?

The project is made with made-up samples and no images. Each measurement is a process of its own, so
that its peak memory is that of the whole program; seconds are the median of the runs. `cpu` is the
processor's time: it stays the same on a machine that others use too.

    python bench/index.py --samples 1000000
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from shared.record import write

from qmu_edge.data.index import SampleIndex
from qmu_edge.data.subjects import pseudonym
from qmu_edge.io.files import write_atomic
from qmu_edge.recipe import Recipe, to_toml
from qmu_edge.store.ledger.ledger import Ledger

SAMPLES_OF_ONE = 10
KEY = bytes(32)
# Not getrusage: its peak is inherited from the process that starts this one.
PEAK = """
import json, sys, time
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
"""
RESOLVE = f"""{PEAK}
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import resolve
from qmu_edge.request.split import divide

def ask(subject):
    document = json.dumps(dict(subject_ids=[subject])).encode()
    return parse_request(document, source="bench", key=bytes(32))

imported = peak()
with opened(Path(sys.argv[1]), Progress()) as project:
    start = time.perf_counter()
    index = project.samples.index
    opening = time.perf_counter() - start
    seconds, cpu = [], []
    for number in range(10):
        start, busy = time.perf_counter(), time.process_time()
        barred = project.ledger.barred()
        found = resolve(index, ask("person %d" % number), barred=barred, key=bytes(32))
        split = divide(index, [found], barred=barred)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
        assert len(split.forget) + len(split.also_erased) == int(sys.argv[2])
print(json.dumps(dict(open_s=opening,
    first_resolve_ms=1e3 * seconds[0],
    resolve_ms=1e3 * sorted(seconds)[5], resolve_cpu_ms=1e3 * sorted(cpu)[5],
    peak_mb=peak(), imports_mb=imported)))
"""
STATUS = f"""{PEAK}
start = time.perf_counter()
from qmu_edge import api
found = api.status(Path(sys.argv[1]))
assert found["samples"] == int(sys.argv[3])
print(json.dumps(dict(status_s=time.perf_counter() - start, status_cpu_s=time.process_time(),
    peak_mb=peak())))
"""


def make_project(root: Path, n: int) -> dict[str, float]:
    """A project folder with `n` samples in its ledger, and what making it took."""
    start = time.perf_counter()
    for folder in ("objects", "keys"):
        (root / ".qmu" / folder).mkdir(parents=True)
    write_atomic(root / ".qmu/keys/pseudonym.key", KEY, mode=0o600)
    write_atomic(root / "qmu.toml", to_toml(Recipe()).encode())
    rng = np.random.default_rng(0)
    index = SampleIndex.of(
        ids=(f"train/class-{i % 1000:03d}/image-{i:08d}.jpg" for i in range(n)),
        digests=(hashlib.sha256(b"%d" % i).hexdigest() for i in range(n)),
        labels=np.arange(n, dtype=np.int64) % 1000,
        splits=rng.choice(3, n, p=(0.7, 0.1, 0.2)).astype(np.int8),
        subjects=_owners(n),
        class_names=(f"class-{i:03d}" for i in range(1000)),
    )
    with Ledger.create(root / ".qmu/ledger.db") as ledger:
        ledger.write_samples(index)
    size = (root / ".qmu/ledger.db").stat().st_size
    return {"write_s": time.perf_counter() - start, "ledger_mb": size / 2**20}


def _owners(n: int) -> Iterator[str]:
    """One person after the other, a few samples each."""
    for number in range(-(-n // SAMPLES_OF_ONE)):
        name = pseudonym(KEY, f"person {number}")
        for _ in range(min(SAMPLES_OF_ONE, n - number * SAMPLES_OF_ONE)):
            yield name


def measured(script: str, *arguments: object, runs: int) -> dict[str, float]:
    """The median of each number that a script prints, over processes; also the whole process's seconds."""
    found: list[dict[str, Any]] = []
    for _ in range(runs):
        start = time.perf_counter()
        words = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.append({**json.loads(done.stdout), "process_s": time.perf_counter() - start})
    return {name: median(run[name] for run in found) for name in found[0]}


def main() -> None:
    """Make the project, measure, write bench/results/index.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = make_project(root, options.samples)
        more = (root, SAMPLES_OF_ONE, options.samples)
        results = {
            "project": made,
            "resolve": measured(RESOLVE, *more, runs=options.runs),
            "status": measured(STATUS, *more, runs=options.runs),
        }
    print(write("index", vars(options), results))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
