"""Forget one person of eight, from Python: pictures, a network, a request, a bundle for devices.

python -m qmu_edge.api.examples.forget_a_person FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from qmu_edge import api
from qmu_edge.errors import VerificationFailed
from qmu_edge.machine.processors import settle

RECIPE = """
[data]
source = "folder"
[model]
width = 0.25
[train]
epochs = 15
batch = 16
optimizer = "adamw"
lr = 0.01
[policy]
rungs = ["retrain"]
"""


def write_pictures(folder: Path, people: int = 8, each: int = 24) -> None:
    """Noise of three classes: 16 by 16 pixels, a darker third, and a list that says whose each picture is."""
    rng = np.random.default_rng(0)
    lines = ["sample,subject"]
    for number in range(people * each):
        label, person = number % 3, number // each
        pixels = rng.integers(60, 256, (16, 16, 3))
        pixels[label * 5 : label * 5 + 5] -= 40
        split = "test" if number % 4 == 3 else "train"
        path = folder / split / f"class-{label}" / f"{number:04d}.png"
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        lines.append(f"{path.relative_to(folder).as_posix()},c-{person}")
    (folder / "subjects.csv").write_text("\n".join(lines) + "\n")


def main(folder: Path) -> None:
    """Do everything below a folder that is made."""
    settle()  # how many threads; before torch is imported
    photos, shop, request = folder / "photos", folder / "shop", folder / "req.json"
    write_pictures(photos)
    (folder / "recipe.toml").write_text(RECIPE)

    api.init(shop, dataset=str(photos), recipe=str(folder / "recipe.toml"), subjects=photos / "subjects.csv")
    api.train(shop)

    api.request_new(subject_ids=["c-3"], out=request)
    before = api.unlearn(request, shop, dry_run=True)  # changes nothing
    print("would forget", (before["counts"] or {})["forget"], "pictures")
    try:
        done = api.unlearn(request, shop)
    except VerificationFailed as missed:  # no file forgot enough, so none was released
        sys.exit(f"not released: {missed}")
    print("outcome", done["outcome"], "and the receipt", done["receipt"])
    print("\n".join(api.receipt_verify(project=shop)["checks"]))

    api.export(shop, bundle=folder / "device")
    api.keys_export(project=shop, public=True, out=folder / "key.pem")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
