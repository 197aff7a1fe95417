"""Decoded images that are not the registered ones: what mends them is said, and mends them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmu_edge import api
from qmu_edge.project.samples import IMAGES
from tests.data.photos import LABELS, PIXELS


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (altered, "1 images are not the registered ones, the first is images/000007"),
    "missing": (Path.unlink, "decoded images cannot be opened"),
    "empty": (lambda path: path.write_bytes(b""), "decoded images cannot be opened"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "its header is altered"),
    "others": (lambda path: np.save(path, np.zeros((3, 3, 6, 5), np.uint8)), "is not the registered dataset"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_images_that_are_others_are_made_anew_as_the_error_says(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=np.array(LABELS))
    shop, other, (damage, said) = tmp_path / "shop", tmp_path / "other", DAMAGES[name]
    api.init(shop, dataset=tmp_path / "set.npz")
    images = shop / ".qmu" / IMAGES
    damage(images)
    (problem,) = [text for text in api.doctor(shop)["problems"] if "images" in text]
    assert said in problem and "qmu-edge init OTHER --dataset" in problem
    assert problem.endswith(f"writes OTHER/.qmu/{IMAGES}")
    api.init(other, dataset=tmp_path / "set.npz", recipe=shop / "qmu.toml")
    shutil.copyfile(other / ".qmu" / IMAGES, images)
    images.chmod(0o600)
    assert api.doctor(shop)["problems"] == []
