"""What do references and the verdict cost? A deletion request with them and without, side by side.

For each seed a subset of an image folder is registered and trained, references and all. One person's images
are then deleted twice, in copies of the project: with the verdict, and with none (no references, whatever is
made is released). The method is the same, and its file is taken in both.

    python bench/request.py --dataset cifar10/ [--recipe cifar10-resnet18-w4a4-small] [--images 4000]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from shared.record import write

from qmu_edge import api
from qmu_edge.project.project import RECIPE
from qmu_edge.recipe import Recipe, parse_recipe, recipe_text, to_toml

PERSON = 100  # images


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


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--recipe", default="cifar10-resnet18-w4a4-small")
    parser.add_argument("--method", default="held_out_match")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one(options, seed, Path(folder)))
    found = {name: [mean(r[name] for r in runs), stdev(r[name] for r in runs)] for name in runs[0]}
    settings = {k: v for k, v in vars(options).items() if k != "dataset"} | {"dataset": options.dataset.name}
    print(write("request", settings, found))


if __name__ == "__main__":
    main()
