"""Can a thousand requests be registered and served in batches? Time of each part, size of the ledger.

Each request is one sample of scikit-learn's digits, so the thousand of them delete most of the data: what is
measured is the handling of requests, not a network that anybody would ship. The network is tiny, the method
is the fastest, and no threshold is set that it could miss.

    python bench/requests_scale.py --requests 1000 --batch 250
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from shared.record import write

from qmu_edge import api
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened

RECIPE = """
[data]
source = "digits"
size = 8
[model]
width = 0.125
[train]
epochs = 1
batch = 128
[unlearn.grad_ascent]
batch = 128
[references]
trained = "never"
[policy]
when_not_measurable = "release"
rungs = ["grad_ascent", "retrain"]
max_ta_drop = "off"
max_ra_drop = "off"
approval_above_total = "off"
retrain_above = "off"
"""
Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def documents(project: Path, n: int, folder: Path) -> list[Path]:
    """A request for each of the first n training samples."""
    with opened(project, Progress()) as found:
        names = [found.samples.index.ids[i] for i in found.samples.trainable()[:n]]
    paths = []
    for number, name in enumerate(names):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps({"sample_ids": [name], "requested_by": f"ticket {number}"}))
    return paths


def size_of(folder: Path) -> dict[str, int]:
    """Bytes of the ledger and of all objects, and how many objects there are."""
    objects = [p.stat().st_size for p in (folder / "objects").rglob("*") if p.is_file()]
    ledger = sum(p.stat().st_size for p in folder.glob("ledger.db*"))
    return {"ledger_bytes": ledger, "objects_bytes": sum(objects), "objects": len(objects)}


def run(requests: int, batch: int, work: Path) -> dict[str, Any]:
    """Register and serve in turns of `batch`."""
    (work / "recipe.toml").write_text(RECIPE)
    project = work / "project"
    api.init(project, recipe=str(work / "recipe.toml"))
    api.train(project)
    paths, turns = documents(project, requests, work), []
    before = size_of(project / ".qmu")
    for first in range(0, len(paths), batch):
        some = paths[first : first + batch]
        _, adding = timed(lambda some=some: [api.request_add(path, project) for path in some])  # type: ignore[misc]
        _, asking = timed(lambda: api.status(project))
        served, serving = timed(lambda: api.unlearn(None, project, pending=True))
        if served["failed"] or served["waiting"] or len(served["batches"]) != 1:
            raise SystemExit(f"not all were served: {served['failed'] or served['waiting']}")
        turns.append({
            "requests": len(some), "add_s": adding, "status_s": asking, "serve_s": serving,
            "steps_s": {k: v["seconds"] for k, v in served["batches"][0]["steps"].items()},
        })  # fmt: skip
    problems, checking = timed(lambda: api.doctor(project)["problems"])
    receipts = {r["receipt"] for r in api.request_list(project)["requests"]} - {None}
    return {
        "turns": turns, "before": before, "after": size_of(project / ".qmu"),
        "receipts": len(receipts), "doctor_s": checking, "problems": problems,
    }  # fmt: skip


def main() -> None:
    """Run once and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = run(options.requests, options.batch, Path(work))
    path = write("requests_scale", vars(options), found)
    for turn in found["turns"]:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in turn.items()})
    print({k: v for k, v in found.items() if k != "turns"}, path)


if __name__ == "__main__":
    main()
