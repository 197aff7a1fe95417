"""Datasets that cannot be read make no project."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.refusals import cut, refused

Damage = Callable[[Path], object]


def _images(root: Path, size: int = 8) -> Path:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                noise = np.random.default_rng([number, len(name)]).integers(0, 256, (size, size), np.uint8)
                Image.fromarray(noise).save(folder / f"{split}-{name}-{number}.png")
    return root


def _emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _broken(root: Path) -> None:
    (root / "train/cat/train-cat-1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")


def _truncated(root: Path) -> None:
    cut(root / "train/dog/train-dog-2.png")


def _other_size(root: Path) -> None:
    from PIL import Image

    Image.new("L", (9, 9)).save(root / "test/dog/test-dog-0.png")


DATASETS: dict[str, tuple[Damage, str]] = {
    "no such folder": (shutil.rmtree, "no such folder"),
    "no images": (_emptied, "no images"),
    "a broken image": (_broken, "train-cat-1.png"),
    "a truncated image": (_truncated, "train-dog-2.png"),
    "an image of another size": (_other_size, "9x9"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_cannot_be_read_makes_no_project(run: Any, tmp_path: Path, name: str) -> None:
    damage, fragment = DATASETS[name]
    damage(_images(tmp_path / "images"))
    recipe = tmp_path / "r.toml"
    recipe.write_text("[data]\nsize = 0\n")
    ended = run("init", tmp_path / "p", "--dataset", tmp_path / "images", "--recipe", recipe, "--quiet")
    refused(ended, 2, fragment)
    assert not (tmp_path / "p").exists() or list((tmp_path / "p").iterdir()) == []


def test_a_folder_of_images_makes_a_project(run: Any, tmp_path: Path) -> None:
    _images(tmp_path / "images")
    recipe, subjects = tmp_path / "r.toml", tmp_path / "s.csv"
    recipe.write_text("[data]\nsize = 0\n")
    subjects.write_text("sample,subject\ntrain/cat/train-cat-0.png,ana\n")
    words = ["--dataset", tmp_path / "images", "--recipe", recipe, "--subjects", subjects, "--json"]
    found = run("init", tmp_path / "p", *words).json
    assert (found["samples"], found["test"], found["classes"], found["subjects"]) == (16, 8, 2, 1)
