"""Take over a network that ordinary PyTorch has trained: quantize it, forget a person, compare the files.

python -m qmu_edge.api.examples.adopt_a_network FOLDER
"""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from qmu_edge import api
from qmu_edge.api.examples.forget_a_person import RECIPE, write_pictures

MODEL = """
from torch import nn


def build(layers, shape):
    return nn.Sequential(
        nn.Conv2d(shape.channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, shape.classes),
    )
"""


def trained_elsewhere(file: Path, photos: Path) -> nn.Module:
    """A float network, as yours may lie in a file: trained without this package."""
    torch.manual_seed(0)
    network: nn.Module = runpy.run_path(str(file))["build"](None, SimpleNamespace(channels=3, classes=3))
    paths = sorted(photos.glob("train/*/*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))
    images = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25  # as [data] mean and std of the recipe say
    labels = torch.tensor([int(path.parent.name[-1]) for path in paths])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network


def main(folder: Path) -> None:
    """Do everything below a folder that is made."""
    photos, shop, request, file = (folder / name for name in ("photos", "shop", "req.json", "net.py"))
    write_pictures(photos)
    file.write_text(MODEL)
    (folder / "recipe.toml").write_text(RECIPE)
    save_file(trained_elsewhere(file, photos).state_dict(), folder / "weights.safetensors")

    api.init(  # runs net.py, which is yours
        shop, dataset=str(photos), recipe=str(folder / "recipe.toml"), subjects=photos / "subjects.csv",
        model=str(file),
    )  # fmt: skip
    names = folder / "names.toml"
    names.write_text('head = "8"\n')  # our name of the classifier, and its number in theirs
    adopted = api.adopt(folder / "weights.safetensors", shop, trained_on="registered", names=names)
    print("accuracy after quantization:", adopted["accuracy"])
    api.export(shop, formats=["integer"], out=folder / "before")

    api.request_new(subject_ids=["c-3"], out=request)
    done = api.unlearn(request, shop)
    print("outcome", done["outcome"], "file", done["files"]["model.onnx"])
    print("the same file as before:", (folder / "before/model.onnx").read_bytes()
          == Path(done["files"]["model.onnx"]).read_bytes())  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
