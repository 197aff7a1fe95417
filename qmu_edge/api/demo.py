"""The main job in a minute or two: train, delete one person, and see what is left, beside retraining.

The images are scikit-learn's digits in strong noise: a network learns those of training by heart and
recognises a third of the others, so that there is something to forget, as with photographs. Uses only what a
user has: a folder of images, and the functions of `qmu_edge.api`.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Final

from qmu_edge import api
from qmu_edge.errors import ConfigError, VerificationFailed
from qmu_edge.io.files import make_folder
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.project.project import RECIPE

SUBJECT: Final = "writer-7"
MARK: Final = ".qmu-demo"
NOISE: Final = 220.0  # deviation, in grey values of 0 to 255
NOTHING: Final = "finetune"  # the recipe gives it a learning rate that moves no integer weight


def demo(folder: Path, *, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Run the demonstration in `folder`, which is emptied first if an earlier one made it.

    Args:
        folder: Where; made when missing.
        seed: Of the noise and of all training.
        progress: Silent when None.

    Returns:
        Rows of the table (original, unlearned, retrained), what became of an attempt that changes nothing,
        cost of each step, and paths. Where no method but retraining passed, "unlearned" is of the retrained
        network too.

    Raises:
        ConfigError: The folder holds something else.
    """
    shown = progress or Progress()
    _empty(folder)
    costs: dict[str, Any] = {}
    shop, twin, request = folder / "shop", folder / "retrained", folder / "req.json"
    _, costs["images"] = measured_cost(lambda: write_images(folder / "photos", seed))
    _, costs["init"] = measured_cost(
        lambda: api.init(
            shop, dataset=str(folder / "photos"), recipe="noisy-digits-resnet18-w4a4",
            subjects=folder / "photos" / "subjects.csv", progress=shown,
        )
    )  # fmt: skip
    _set_seed(shop / RECIPE, seed)
    _, costs["train"] = measured_cost(lambda: api.train(shop, progress=shown))
    shutil.copytree(shop, twin, symlinks=True)
    shown.note(f"deleting everything of {SUBJECT}")
    api.request_new(subject_ids=[SUBJECT], out=request)
    refused = _change_nothing(request, shop, shown)
    served = api.unlearn(request, shop, progress=shown)
    beside = api.unlearn(request, twin, method="retrain", progress=shown)
    costs.update(served["steps"])
    rows = {
        "original": _row("original", served, costs["train"]["seconds"]),
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


def _set_seed(recipe: Path, seed: int) -> None:
    """As a user would: by editing qmu.toml."""
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("\nseed = 0\n", f"\nseed = {seed}\n"), "utf-8")


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


def _seconds(served: dict[str, Any]) -> float:
    return float(sum(served["steps"][step]["seconds"] for step in ("unlearned", "requantized")))


def _row(name: str, served: dict[str, Any], seconds: float) -> dict[str, Any]:
    part, residuals = served["report"][name], served["report"]["verdict"]["residuals"]
    found = part["evaluation"]
    return {
        "FA": found["fa"]["value"], "RA": found["ra"]["value"], "TA": found["ta"]["value"],
        "MIA": part["mia_efficacy"]["mean"], "MIA AUC": found["mia_auc"]["value"],
        "left": {end: residuals[0][end] for end in ("value", "low", "high")} if residuals else None,
        "file_bytes": found["bytes"], "seconds": seconds,
    }  # fmt: skip


def _empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise ConfigError(f"{folder}: not empty, and not an earlier demonstration")
        shutil.rmtree(folder)
    make_folder(folder, 0o755)
    (folder / MARK).write_text(f"made by qmu-edge demo, process {os.getpid()}\n")
