"""The main job in a minute or two: train, delete one person, and see what is left, beside retraining.

The images are scikit-learn's digits in strong noise: a network learns those of training by heart and
recognises a third of the others, so that there is something to forget, as with photographs. Uses only what a
user has: a folder of images, and the functions of `qmu_edge.api`.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from qmu_edge import api
from qmu_edge.errors import ConfigError, VerificationFailed
from qmu_edge.io.files import AnyPath, make_folder
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import Cost, measured_cost
from qmu_edge.project.project import RECIPE
from qmu_edge.store.ledger.states import Outcome
from qmu_edge.verify.plain import AccuracyJson, AucJson, VerdictJson

if TYPE_CHECKING:
    from qmu_edge.pipeline.fulfilled import Fulfilled

SUBJECT: Final = "writer-7"
MARK: Final = ".qmu-demo"
NOISE: Final = 220.0  # deviation, in grey values of 0 to 255
NOTHING: Final = "finetune"  # the recipe gives it a learning rate that moves no integer weight


class Left(TypedDict):
    """A share of what was known, with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


# What one file does, as fractions; `left` is None where nothing was told.
Row = TypedDict(
    "Row",
    {
        "FA": float, "RA": float, "TA": float, "MIA": float, "MIA AUC": float, "left": Left | None,
        "file_bytes": int, "seconds": float,
    },
)  # fmt: skip


class Demonstration(TypedDict):
    """What the demonstration has shown.

    Attributes:
        rows: Of the table. Where no method but retraining passed, "unlearned" is of the retrained network
            too.
        refused: What became of an attempt that changes nothing.
        steps: What each has cost.
        paths: Of the files.
        verdict, counts, outcome: Of the request.
    """

    rows: dict[Literal["original", "unlearned", "retrained"], Row]
    refused: str
    steps: Mapping[str, Cost]
    paths: dict[str, str | None]
    verdict: VerdictJson
    counts: Mapping[str, int] | None
    outcome: Outcome | None


def demo(folder: AnyPath, *, seed: int = 0, progress: Progress | None = None) -> Demonstration:
    """Run the demonstration in `folder`, which is emptied first if an earlier one made it.

    Args:
        folder: Where; made when missing.
        seed: Of the noise and of all training.
        progress: Silent when None.

    Raises:
        ConfigError: The folder holds something else.
    """
    shown, folder = progress or Progress(), Path(folder)
    _empty(folder)
    shop, twin, request = folder / "shop", folder / "retrained", folder / "req.json"
    _, images = measured_cost(lambda: write_images(folder / "photos", seed))
    _, made = measured_cost(
        lambda: api.init(
            shop, dataset=str(folder / "photos"), recipe="noisy-digits-resnet18-w4a4",
            subjects=folder / "photos" / "subjects.csv", progress=shown,
        )
    )  # fmt: skip
    _set(shop / RECIPE, "seed", seed)
    _, trained = measured_cost(lambda: api.train(shop, progress=shown))
    shutil.copytree(shop, twin, symlinks=True)
    for limit in ("max_ta_drop", "max_ra_drop"):  # this one is for comparison: what it loses is shown
        _set(twin / RECIPE, limit, "off")
    shown.note(f"deleting everything of {SUBJECT}")
    api.request_new(subject_ids=[SUBJECT], out=request)
    refused = _change_nothing(request, shop, shown)
    served = api.unlearn(request, shop, progress=shown)
    beside = api.unlearn(request, twin, method="retrain", progress=shown)
    costs: dict[str, Cost] = {"images": images, "init": made, "train": trained, **served["steps"]}
    rows: dict[Literal["original", "unlearned", "retrained"], Row] = {
        "original": _row("original", served, trained["seconds"]),
        "unlearned": _row("unlearned", served, _seconds(served)),
        "retrained": _row("unlearned", beside, _seconds(beside)),
    }
    rows["original"]["left"] = {"value": 1.0, "low": 1.0, "high": 1.0}  # that is what a share is of
    return {
        "rows": rows, "refused": refused, "steps": costs,
        "paths": {
            **served["files"], "receipt.json": served["receipt"], "report.html": served["page"],
            "request": str(request),
        },
        "verdict": served["report"]["verdict"], "counts": served["counts"], "outcome": served["outcome"],
    }  # fmt: skip


def _set(recipe: Path, key: str, value: int | str) -> None:
    """As a user would: by editing qmu.toml."""
    text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", recipe.read_text("utf-8"))
    recipe.write_text(text, "utf-8")


def write_images(folder: Path, seed: int) -> None:
    """Noisy digits as an image folder, a fifth of them for testing, with a list of whose they are."""
    import numpy as np
    from PIL import Image

    from qmu_edge.data.sources import load
    from qmu_edge.recipe import DataRecipe

    source, rng = load(DataRecipe(source="digits", size=8), Progress()), np.random.default_rng(seed)
    noise = rng.normal(0.0, NOISE, source.images.shape)
    images = np.clip(source.images + noise, 0, 255).astype(np.uint8)
    splits = np.where(rng.random(len(images)) < 0.2, "test", "train")
    lines = ["sample,subject"]
    for number, (image, label, split) in enumerate(zip(images[:, 0], source.labels, splits, strict=True)):
        path = Path(split) / str(label) / f"{number:04d}.png"
        make_folder((folder / path).parent, 0o755)
        Image.fromarray(image).save(folder / path)
        lines.append(f"{path.as_posix()},{source.subjects[number][0]}")
    (folder / "subjects.csv").write_text("\n".join(lines) + "\n", "utf-8")


def _change_nothing(request: Path, shop: Path, shown: Progress) -> str:
    """What is said about a method that moves no integer weight."""
    try:
        api.unlearn(request, shop, method=NOTHING, progress=shown)
    except VerificationFailed as error:
        return str(error)
    return "a file in which nothing changed was released"  # a wrong release: the command says so


def _seconds(served: "Fulfilled") -> float:
    return float(sum(served["steps"][step]["seconds"] for step in ("unlearned", "requantized")))


def _row(name: Literal["original", "unlearned"], served: "Fulfilled", seconds: float) -> Row:
    part, residuals = served["report"][name], served["report"]["verdict"]["residuals"]
    found, efficacy, left = part["evaluation"], part["mia_efficacy"], None
    if residuals:
        left = Left(value=residuals[0]["value"], low=residuals[0]["low"], high=residuals[0]["high"])
    return {
        "FA": _share(found["fa"]), "RA": _share(found["ra"]), "TA": _share(found["ta"]),
        "MIA": efficacy["mean"] if efficacy else math.nan, "MIA AUC": _share(found["mia_auc"]), "left": left,
        "file_bytes": found["bytes"], "seconds": seconds,
    }  # fmt: skip


def _share(of: AccuracyJson | AucJson | None) -> float:
    """What was measured; not a number without the images, which the demonstration has."""
    return of["value"] if of else math.nan


def _empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise ConfigError(f"{folder}: not empty, and not an earlier demonstration")
        shutil.rmtree(folder)
    make_folder(folder, 0o755)
    (folder / MARK).write_text(f"made by qmu-edge demo, process {os.getpid()}\n")
