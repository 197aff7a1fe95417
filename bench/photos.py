"""What does a large set of photographs cost: registering it, opening it again, and reading it beside a step?

Makes JPEGs of 224 x 224 pixels (smooth shapes with a little noise, ten classes), registers them in a process
of its own, opens the project again, and reads batches as training does, beside steps of a network. Memory is
what the process holds of its own (RssAnon), sampled; pages of the file that it maps are the system's to take
back. With `--cgroup`, a group of control groups v1 that is ours, the processes must do with 2 GiB, those
pages included.

    python bench/photos.py [--images 100000] [--folder FOLDER] [--cgroup /sys/fs/cgroup/memory/photos]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shared.record import write

SIDE = 224
LIMIT = 2 * 2**30

REGISTER = """
import sys
from pathlib import Path
from qmu_edge import api
from qmu_edge.io.progress import Progress
api.init(Path(sys.argv[1]), dataset=sys.argv[2], recipe=sys.argv[3], progress=Progress.stderr())
"""
OPEN = """
import sys
from pathlib import Path
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
with opened(Path(sys.argv[1]), Progress()) as project:
    print(len(project.samples.images))
"""
READ = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate
from qmu_edge.models.layers import Shape
from qmu_edge.project.project import opened
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Augment, on_device
from qmu_edge.train.loop import Descent, Optimization, cross_entropy
from qmu_edge.runtime.throughput import counting
torch.set_num_threads(2)
with opened(Path(sys.argv[1]), Progress()) as project:
    images, index = project.samples.images, project.samples.index
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(images))[:512])
    model = build(ModelRecipe(stem="imagenet", width=0.25), Shape(channels=3, classes=10), 0)
    model.to(memory_format=torch.channels_last)
    calibrate(model, [torch.rand(16, 3, 224, 224)])
    samples = on_device(images, index.labels, torch.device("cpu"), limit_bytes=2**30).take(rows)
    settings = Optimization(lr=0.01, momentum=0.9, weight_decay=0.0, scale_lr=0.1)
    descent, augment = Descent(model.train(), settings, 100, Progress()), Augment(pad=8, flip=True)
    with counting(samples.device) as spent:
        descent.epoch(cross_entropy(model), samples.batches(64, torch.Generator().manual_seed(0), augment))
    print(json.dumps(spent.spent(len(samples))))
"""


def picture(seed: int) -> np.ndarray:
    """Soft shapes, uint8 (224, 224, 3)."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-6, 7, (SIDE // 2, SIDE // 2, 3)).repeat(2, 0).repeat(2, 1)
    pixels: np.ndarray = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return pixels


def save(folder: Path, start: int, stop: int) -> None:
    """Pictures number start to stop, every tenth for testing."""
    for i in range(start, stop):
        path = folder / ("train" if i % 10 else "test") / str(i // 10 % 10) / f"{i:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(i)).save(path, quality=85)


def measured(command: list[str], cgroup: Path | None) -> tuple[dict[str, float], str]:
    """Seconds and memory of a process, and what it printed."""
    start, most = time.perf_counter(), [0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if cgroup is not None:
        (cgroup / "memory.limit_in_bytes").write_text(str(LIMIT))
        (cgroup / "cgroup.procs").write_text(str(process.pid))

    def watch() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            most[0] = max(most[0], *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command[2][:60]}: exit code {process.returncode}")
    return {"seconds": time.perf_counter() - start, "own_memory_mb": most[0] / 1024}, out


def main() -> None:
    """Make the pictures, measure, write bench/results/photos.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cgroup", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        photos = options.folder or Path(temporary) / "photos"
        with ProcessPoolExecutor(2) as pool:
            starts = range(0, options.images, 500)
            list(
                pool.map(save, [photos] * len(starts), starts, [min(s + 500, options.images) for s in starts])
            )
        project, recipe = Path(temporary) / "project", Path(temporary) / "photos.toml"
        recipe.write_text("[data]\nmean = [0.5]\nstd = [0.25]\n")
        if options.cgroup is not None:
            options.cgroup.mkdir(exist_ok=True)
        python = [sys.executable, "-c"]
        first, _ = measured([*python, REGISTER, str(project), str(photos), str(recipe)], options.cgroup)
        again, _ = measured([*python, OPEN, str(project)], options.cgroup)
        reading, said = measured([*python, READ, str(project)], None)
        results: dict[str, Any] = {
            "images": options.images, "limit_bytes": LIMIT if options.cgroup else None,
            "jpeg_bytes": sum(p.stat().st_size for p in photos.rglob("*.jpg")),
            "cache_bytes": (project / ".qmu/cache/images.npy").stat().st_size,
            "register": first, "open": again, "epoch_of_512": json.loads(said), "own_memory_mb": reading,
        }  # fmt: skip
    print(write("photos", {"images": options.images}, results), results)


if __name__ == "__main__":
    main()
