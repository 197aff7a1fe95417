"""A whole deletion request on an image folder: how well and how fast, against retraining, over seeds?

For each seed: register, train, delete a random share of the training images, verify beside a retrained
reference. Every number comes from the exported file. Results are written after each seed, a table last.

    python bench/request.py --dataset cifar10/ --recipe cifar10-resnet18-w4a4 --seeds 0 1 2
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from shared.record import write

from qmu_edge import api
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.recipe import Recipe, parse_recipe, recipe_text, to_toml

KINDS = ("original", "unlearned", "retrained")


def with_seed(name: str, seed: int, epochs: int | None) -> Recipe:
    """The recipe under another seed, compared with a retrained reference; thresholds only report."""
    document = parse_recipe(recipe_text(name), name).model_dump()
    document["train"]["seed"] = seed
    document["train"]["epochs"] = epochs or document["train"]["epochs"]
    off = {key: "off" for key in document["policy"] if key.startswith("max_")}
    # One threshold stays, so wide that it never fails: a verdict needs at least one check.
    document["policy"] |= {**off, "reference": "retrained", "max_ta_drop": 1.0}
    return Recipe.model_validate(document)


def subjects_file(dataset: Path, share: float, seed: int, path: Path) -> None:
    """One made-up subject who owns a random share of the training images."""
    files = sorted(f.relative_to(dataset).as_posix() for f in (dataset / "train").glob("*/*"))
    chosen = np.random.default_rng(seed).permutation(len(files))[: round(share * len(files))]
    rows = "".join(f"{files[i]},subject\n" for i in chosen)
    path.write_text(f"sample,subject\n{rows}", "utf-8")


def one(options: argparse.Namespace, seed: int, work: Path) -> dict[str, Any]:
    """One seed from registration to receipt."""
    progress = Progress.stderr()
    recipe, subjects, project = work / "recipe.toml", work / "subjects.csv", work / "project"
    recipe.write_text(to_toml(with_seed(options.recipe, seed, options.epochs)), "utf-8")
    subjects_file(options.dataset, options.share, seed, subjects)
    _, init = measured_cost(
        lambda: api.init(
            project, dataset=str(options.dataset), recipe=str(recipe), subjects=subjects, progress=progress
        )
    )
    _, train = measured_cost(lambda: api.train(project, progress=progress))
    api.request_new(subject_ids=["subject"], out=work / "req.json")
    served = api.unlearn(work / "req.json", project, method=options.method, progress=progress)
    report = served["report"]
    rows = {kind: _row(report[kind]) for kind in KINDS}
    rows["original"]["seconds"] = train["seconds"]
    rows["unlearned"]["seconds"] = sum(served["steps"][s]["seconds"] for s in ("unlearned", "requantized"))
    rows["retrained"]["seconds"] = report["retrained"]["seconds"]
    return {"rows": rows, "steps": {"init": init, "train": train, **served["steps"]}}


def _row(part: dict[str, Any]) -> dict[str, float]:
    found = part["evaluation"]
    return {
        "FA": found["fa"]["value"], "RA": found["ra"]["value"], "TA": found["ta"]["value"],
        "MIA": part["mia_efficacy"]["mean"], "MIA AUC": found["mia_auc"]["value"],
        "bytes": found["bytes"],
    }  # fmt: skip


def gap(rows: dict[str, dict[str, float]]) -> float:
    """AG: mean absolute gap of FA, RA, TA and MIA to the retrained model, as a fraction."""
    return mean(abs(rows["unlearned"][k] - rows["retrained"][k]) for k in ("FA", "RA", "TA", "MIA"))


def collected(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of every number."""
    table = {
        kind: {key: _spread([run["rows"][kind][key] for run in runs]) for key in runs[0]["rows"][kind]}
        for kind in KINDS
    }
    return {"table": table, "AG": _spread([gap(run["rows"]) for run in runs]), "runs": runs}


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0, "n": len(values)}


def main() -> None:
    """Run the seeds; write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--method", default="qmul")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    settings = {k: v for k, v in vars(options).items() if k != "dataset"} | {"dataset": options.dataset.name}
    for seed in options.seeds:
        work = Path(tempfile.mkdtemp())
        try:
            runs.append(one(options, seed, work))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        path = write(f"request-{options.recipe}-{options.method}", settings, collected(runs))
        print(path)
    for kind, row in collected(runs)["table"].items():
        cells = (f"{key} {v['mean']:.4f} ±{v['deviation']:.4f}" for key, v in row.items())
        print(f"{kind:10}", "  ".join(cells))


if __name__ == "__main__":
    main()
