"""What does each attack of `qmu-edge audit` find in a file that knows, in unlearned and in retrained ones?

The project of `qmu-edge demo`, over seeds: one writer is deleted in copies of it, by each method once, and
every attack is made on every file. Whatever a method makes is released here, whatever the verdict says: also
of `finetune`, to which the recipe gives a learning rate that moves no integer weight ("no-op"). The other
methods make as many passes as `held_out_match`, at learning rates that were not tuned for these images: the
table compares attacks, and no methods.

Networks that attacks train on retained images are the same for every file of a seed, and are trained once,
but for the no-op's file, whose costs are shown. Seconds are the processor's, of one thread, so that other
work does not count. Each attack is made by a call of its own: it pays for reading the files itself. A killed
run goes on with the file that it was at. An attack that is newer than a result is made on the same
file, which is unlearned once more.

    OMP_NUM_THREADS=1 python bench/audit.py --work work/ [--seeds 0 1 2] [--methods finetune retrain]
    python bench/audit.py --work work/ --collect     # what is there, to bench/results/audit.json
"""

import argparse
import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Final
from unittest.mock import patch

import torch
from request import spread
from shared.record import commit, write

from qmu_edge import api
from qmu_edge.api.demo import SUBJECT, write_images
from qmu_edge.audit.registry import ATTACKS
from qmu_edge.io.files import write_atomic
from qmu_edge.machine.cost import measured_cost
from qmu_edge.models.layers import Classifier
from qmu_edge.pipeline import unlearn_run
from qmu_edge.pipeline.references import Bank
from qmu_edge.project.recipes import recipe_text
from qmu_edge.recipe import Recipe, parse_recipe, to_toml
from qmu_edge.train.batches import Samples
from qmu_edge.verify.verdict import judge

RECIPE: Final = "noisy-digits-resnet18-w4a4"
PASSES: Final = {"epochs": 15, "batch": 64}  # as its held_out_match
METHODS: Final = {
    "qmul": {**PASSES, "lr": 0.02}, "random_label": {**PASSES, "lr": 0.01}, "salun": {**PASSES, "lr": 0.013},
}  # fmt: skip
NOTHING: Final = "finetune"
FILES: Final = (NOTHING, "held_out_match", *METHODS, "ssd", "retrain")
COLUMNS: Final = ("original", "file", "unknowing")


def recipe(seed: int) -> Recipe:
    """The demonstration's under a seed, with methods that it does not name."""
    document = parse_recipe(recipe_text(RECIPE), RECIPE).model_dump()
    document["train"]["seed"] = seed
    document["unlearn"] |= METHODS
    return Recipe.model_validate(document)


def project(folder: Path, seed: int) -> Path:
    """A trained project with its request beside it; made anew where one was not finished."""
    shop, images = folder / "shop", folder / "images"
    if not (folder / "trained").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_images(images, seed)
        (folder / "recipe.toml").write_text(to_toml(recipe(seed)), "utf-8")
        people = images / "subjects.csv"
        api.init(shop, dataset=str(images), recipe=str(folder / "recipe.toml"), subjects=people)
        api.train(shop)
        api.request_new(subject_ids=[SUBJECT], out=folder / "req.json")
        (folder / "trained").touch()
    return shop


def released(*given: Any, **named: Any) -> Any:
    """The product's verdict, under which every file is released."""
    return replace(judge(*given, **named), passed=True)


class Trained:
    """Stands in front of `Bank.trained_on`: what was trained on the same images is not trained again."""

    def __init__(self) -> None:
        """Nothing is trained yet."""
        self.known: dict[tuple[int, int, bytes], Classifier] = {}
        self.train = Bank.trained_on

    def __get__(self, bank: Bank, _: type) -> Callable[[Samples, int, str], Classifier]:
        """The method of a bank."""

        def trained_on(images: Samples, number: int, state: str) -> Classifier:
            seen = sha256(images.images().numpy().tobytes() + images.labels.numpy().tobytes()).digest()
            key = bank.recipe.train.seed, number, seen
            if key not in self.known:
                self.known[key] = self.train(bank, images, number, state)
            return copy.deepcopy(self.known[key])

        return trained_on


def cell(shop: Path, seed: int, method: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Unlearn by one method in a copy of the project, and make every attack on the file that is not known."""
    copied = shop.with_name(f"shop-{method}")
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(shop, copied, symlinks=True)
    with patch.object(unlearn_run, "judge", released):
        served = api.unlearn(shop.with_name("req.json"), copied, method=method)
    foreseen, attacks = api.audit(project=copied, dry_run=True)["attacks"], dict(known)
    for name in ATTACKS.keys() - known.keys():
        made, cost = measured_cost(partial(api.audit, project=copied, attacks=(name,)))
        row = made["attacks"][name]
        attacks[name] = {
            **cost, "expected": foreseen[name]["expected_seconds"], "without": row["without"],
            "forgotten": row["forgotten"], "unseen": row["unseen"],
            "findings": [of for of in row["findings"] if not of["part"]],
        }  # fmt: skip
    shutil.rmtree(copied)
    answer = served["report"]["verdict"]["answer"]
    return {"seed": seed, "method": method, "answer": answer, "commit": commit(), "attacks": attacks}


def collected(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of everything that was found, and of what it took."""
    methods = [name for name in FILES if any(c["method"] == name for c in cells)]
    files = {
        method: {
            attack: dict(_found([c["attacks"][attack]["findings"] for c in cells if c["method"] == method]))
            for attack in ATTACKS
        }
        for method in methods
    }
    made = {a: [c["attacks"][a] for c in cells if c["method"] == NOTHING] for a in ATTACKS}
    costs = {
        attack: {key: _spread([row[key] for row in rows]) for key in ("seconds", "expected", "peak_mb")}
        for attack, rows in made.items()
    }
    answers = {m: sorted(str(c["answer"]) for c in cells if c["method"] == m) for m in methods}
    return {"files": files, "costs": costs, "answers": answers}


def _found(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Each quantity of one attack on one kind of file, over seeds."""
    for quantity in dict.fromkeys(row["quantity"] for rows in runs for row in rows):
        own = [row for rows in runs for row in rows if row["quantity"] == quantity]
        values = {column: [row[column]["value"] for row in own if row[column]] for column in COLUMNS}
        yield quantity, {column: _spread(of) for column, of in values.items() if of}


def _spread(values: list[float]) -> list[float]:
    return [mean(values), spread(values)]


def collect(work: Path) -> Path:
    """Write what is there."""
    cells = [json.loads(path.read_bytes()) for path in sorted(work.glob("*/*.json")) if path.stem in FILES]
    settings = {
        "recipe": RECIPE, "methods": METHODS,
        "files": [name for name in FILES if any(c["method"] == name for c in cells)],
        "attacks": [*ATTACKS], "seeds": sorted({c["seed"] for c in cells}), "threads": 1,
        "forgotten": _spread([c["attacks"]["pair"]["forgotten"] for c in cells]),
        "unseen": _spread([c["attacks"]["pair"]["unseen"] for c in cells]),
        "commits": sorted({c["commit"] for c in cells}),
    }  # fmt: skip
    return write("audit", settings, collected(cells))


def main() -> None:
    """Make the cells that are missing, then collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    if options.collect:
        print(collect(options.work))
        return
    torch.set_num_threads(1)
    setattr(time, "perf_counter", time.process_time)  # noqa: B010 (a name of the module that all use)
    trained = Trained()
    for method, seed in product(options.methods, options.seeds):
        folder = options.work / str(seed)
        done = folder / f"{method}.json"
        known = json.loads(done.read_bytes())["attacks"] if done.is_file() else {}
        if ATTACKS.keys() - known.keys():
            shop = project(folder, seed)
            with nullcontext() if method == NOTHING else patch.object(Bank, "trained_on", trained):
                found = cell(shop, seed, method, known)
            write_atomic(done, json.dumps(found, indent=1).encode())
            print(f"seed {seed}, {method}: {found['answer']}", flush=True)


if __name__ == "__main__":
    main()
