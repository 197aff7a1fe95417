"""What do references and the verdict cost? A deletion request with them and without, side by side.

For each seed a subset of an image folder is registered and trained, references and all. One person's images
are then deleted twice, in copies of the project: with the verdict, and with none (no references, whatever is
made is released). The method is the same, and its file is taken in both.

With --parts: what does a request cost part by part, in seconds and in epochs of training of the same project?
Each request is served in a process of its own, as the command does it. Without a dataset, on the images of
`qmu-edge demo`. With --processor-time (and OMP_NUM_THREADS=1) in seconds of the processor, which other work
does not change.

    python bench/request.py --dataset cifar10/ [--recipe cifar10-resnet18-w4a4-small] [--images 4000]
    python bench/request.py --parts [--dataset cifar10/ --images 8000] [--recipe ...]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from shared.record import write

from qmu_edge import api
from qmu_edge.api.demo import SUBJECT, write_images
from qmu_edge.project.project import RECIPE
from qmu_edge.project.recipes import recipe_text
from qmu_edge.recipe import Recipe, parse_recipe, to_toml

PERSON = 100  # images
DEMO = "noisy-digits-resnet18-w4a4"


def dataset(source: Path, images: int, seed: int, out: Path) -> None:
    """A random part of an image folder, half as many test images, and a person who owns some of it."""
    rng, lines = np.random.default_rng(seed), ["sample,subject"]
    for split, count in (("train", images), ("test", images // 2)):
        files = sorted((source / split).glob("*/*"))
        for number, at in enumerate(rng.permutation(len(files))[:count].tolist()):
            name = files[at].relative_to(source)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[at], out / name)
            if split == "train":
                lines.append(f"{name.as_posix()},{'person' if number < PERSON else f'other-{number // 10}'}")
    (out / "subjects.csv").write_text("\n".join(lines) + "\n", "utf-8")


def lenient(name: str, seed: int, *, trained: str) -> Recipe:
    """The recipe under a seed; whatever the first method makes is released."""
    document = parse_recipe(recipe_text(name), name).model_dump()
    document["train"]["seed"] = seed
    document["references"]["trained"] = trained
    document["policy"] |= {
        "max_residual": 1.0, "max_ta_drop": 1.0, "max_ra_drop": "off", "when_not_measurable": "release",
    }  # fmt: skip
    return Recipe.model_validate(document)


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and how long it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def one(options: argparse.Namespace, seed: int, work: Path) -> dict[str, float]:
    """One seed."""
    images, request, shop, bare = work / "images", work / "req.json", work / "shop", work / "bare"
    dataset(options.dataset, options.images, seed, images)
    (work / "recipe.toml").write_text(to_toml(lenient(options.recipe, seed, trained="once")), "utf-8")
    api.init(shop, dataset=str(images), recipe=str(work / "recipe.toml"), subjects=images / "subjects.csv")
    trained, whole = seconds(lambda: api.train(shop))
    shutil.copytree(shop, bare, symlinks=True)
    text = (bare / RECIPE).read_text("utf-8")
    (bare / RECIPE).write_text(text.replace('trained = "once"', 'trained = "never"'), "utf-8")
    api.request_new(subject_ids=["person"], out=request)
    _, without = seconds(lambda: api.unlearn(request, bare, method=options.method))
    served, beside = seconds(lambda: api.unlearn(request, shop, method=options.method))
    training = trained["spent"]["seconds"]
    print(f"seed {seed}: {served['report']['verdict']['answer']}", flush=True)
    return {
        "training": training, "references": whole - training, "request with a verdict": beside,
        "request without": without, "verdict / without": beside / without,
        "references / training": (whole - training) / training,
    }  # fmt: skip


# Run by a process that has imported nothing: a timer around everything that is not a step of the ledger.
SERVED = """
import json, sys, time
if "--processor-time" in sys.argv:
    time.perf_counter = time.process_time
start = time.perf_counter()
from pathlib import Path
from unittest.mock import patch
from qmu_edge.machine.processors import settle
settle()
from qmu_edge import api
from qmu_edge.pipeline import fulfil
spent = {"import": time.perf_counter() - start, "references": 0.0}
renew = fulfil._renew
def timed(*args):
    begun = time.perf_counter()
    renew(*args)
    spent["references"] += time.perf_counter() - begun
with patch.object(fulfil, "_renew", timed):
    served = api.unlearn(Path(sys.argv[1]), Path(sys.argv[2]), method=sys.argv[3])
steps = {name: step["seconds"] for name, step in served["steps"].items()}
print(json.dumps({"whole": time.perf_counter() - start, "steps": steps, **spent}))
"""
STEPS = {
    "unlearn": "unlearned", "re-quantize": "requantized", "export and gates": "exported",
    "verify": "verified", "receipt": "receipted",
}  # fmt: skip


def parts(request: Path, shop: Path, *options: str) -> dict[str, float]:
    """Seconds of each part of a request, served in a new process; "load" is all that has no name."""
    command = [sys.executable, "-W", "ignore", "-c", SERVED, str(request), str(shop), *options]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found = json.loads(said.splitlines()[-1])
    spent = {name: float(found["steps"].get(step, 0.0)) for name, step in STEPS.items()}
    spent = {"import": found["import"], **spent, "references": found["references"]}
    return {"load": found["whole"] - sum(spent.values()), **spent}


def one_in_parts(options: argparse.Namespace, seed: int, work: Path) -> dict[str, float]:
    """One seed: parts in seconds, what is not unlearning altogether, and both in epochs of training."""
    images, request, shop, given = work / "images", work / "req.json", work / "shop", options.dataset
    person = "person" if given else SUBJECT
    dataset(given, options.images, seed, images) if given else write_images(images, seed)
    recipe = lenient(options.recipe, seed, trained="once")
    (work / "recipe.toml").write_text(to_toml(recipe), "utf-8")
    api.init(shop, dataset=str(images), recipe=str(work / "recipe.toml"), subjects=images / "subjects.csv")
    epoch = api.train(shop)["spent"]["seconds"] / recipe.train.epochs
    api.request_new(subject_ids=[person], out=request)
    clock = ["--processor-time"] if options.processor_time else []
    found = parts(request, shop, options.method, *clock)
    rest = sum(s for name, s in found.items() if name not in ("unlearn", "references"))
    found |= {"all but unlearn and references": rest, "allowed": 0.5 * epoch + 5.0}
    in_epochs = {f"{name}, epochs": spent / epoch for name, spent in found.items()}
    print(
        f"seed {seed}: { ({n: round(s, 2) for n, s in found.items()}) }; an epoch {epoch:.2f} s", flush=True
    )
    return {"epoch": epoch, **found, **in_epochs}


def spread(values: list[float]) -> float:
    """Their deviation; 0 of a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, beside other work")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--recipe")
    parser.add_argument("--method", default="held_out_match")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.dataset is None and not options.parts:
        parser.error("--dataset is needed")
    if options.processor_time:
        torch.set_num_threads(1)
        setattr(time, "perf_counter", time.process_time)  # noqa: B010 (a name of the module that all use)
    options.recipe = options.recipe or ("cifar10-resnet18-w4a4-small" if options.dataset else DEMO)
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append((one_in_parts if options.parts else one)(options, seed, Path(folder)))
    found = {n: [mean(r[n] for r in runs), spread([r[n] for r in runs])] for n in runs[0]}
    name = options.dataset.name if options.dataset else "demo"
    out = f"request-parts-{name}" if options.parts else "request"
    print(write(out, vars(options) | {"dataset": name}, found))


if __name__ == "__main__":
    main()
