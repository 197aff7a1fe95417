"""How long does it take to use an image folder for the first time, and to open it again?

First use decodes every image and registers it. Opening again maps the decoded images, and checks each against
the sample index: seconds of the median of fresh processes, imports not counted.

    python bench/opening.py --data cifar10/ [--runs 5]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev

from shared.record import write

from qmu_edge import api
from qmu_edge.io.progress import Progress

OPEN = """
import sys, time
from pathlib import Path
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
with opened(Path(sys.argv[1]), Progress()) as project:
    start = time.perf_counter()
    count = len(project.samples.images)
    print(count, time.perf_counter() - start)
"""


def main() -> None:
    """Make a project, open it some times; write bench/results/opening.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        api.init(
            Path(folder),
            dataset=str(options.data.resolve()),
            recipe="cifar10-resnet18-w4a4",
            progress=Progress.stderr(),
        )
        first = time.perf_counter() - start
        found = []
        for _ in range(options.runs):
            command = [sys.executable, "-c", OPEN, folder]
            found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    seconds = [float(s) for _, s in found]
    results = {
        "images": int(found[0][0]), "first_use_s": first, "open_median_s": median(seconds),
        "open_mean_s": mean(seconds), "open_deviation_s": stdev(seconds),
    }  # fmt: skip
    print(write("opening", {"runs": options.runs, "dataset": options.data.name}, results), results)


if __name__ == "__main__":
    main()
