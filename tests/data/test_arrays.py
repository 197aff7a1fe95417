"""NumPy archives, as Keras, MedMNIST and people write them."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.data.arrays import archive
from qmu_edge.data.decoding import fitted
from qmu_edge.data.index import Form
from qmu_edge.data.sources import load
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe
from tests.data.photos import LABELS, PIXELS, SPLITS, SUBJECTS, holds_all, loaded

NAMES = np.array(LABELS)
PARTS = {split: [i for i in range(8) if SPLITS[i] == split] for split in ("train", "validation", "test")}


@pytest.mark.parametrize("form", ["{split}_{what}", "{what}_{split}"])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_parts_are_found_by_their_names(tmp_path: Path, form: str, names: tuple[str, str]) -> None:
    arrays: dict[str, Any] = {}
    for split, rows in PARTS.items():
        short = "val" if split == "validation" else split
        values = zip(
            (*names, "subjects"), (PIXELS[rows], NAMES[rows, None], np.array(SUBJECTS)[rows]), strict=True
        )
        arrays |= {form.format(split=short, what=what): value for what, value in values}
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    source = loaded(tmp_path / "set.npz")
    assert holds_all(source) and source.read is not None and source.read["left_out"] == {}


@pytest.mark.parametrize(
    ("people", "images"),
    [
        ("subjects", "x_{split}"),
        ("train_subjects", "x_{split}"),
        ("people", "images"),
        ("subjects_train", "images"),
    ],
)
def test_arrays_that_are_not_read_are_named(tmp_path: Path, people: str, images: str) -> None:
    labels = images.replace("x_", "y_").replace("images", "labels")
    arrays: dict[str, Any] = {images.format(split="train"): PIXELS, labels.format(split="train"): NAMES}
    np.savez(tmp_path / "set.npz", **arrays | {people: np.array(SUBJECTS), "ages": np.arange(8)})
    source = loaded(tmp_path / "set.npz", size=4)
    assert source.subjects == () and source.read == {
        "files": 8, "modes_and_sizes": {"RGB 5x6": 8}, "made_to": "3x4x4 (channels, height, width)",
        "decoded": {}, "left_out": {"arrays": {"count": 2, "first": f"{people}, ages"}},
    }  # fmt: skip


def test_numbers_are_classes_in_their_order_and_images_may_be_grey(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS[..., 0], labels=np.array([10, 9, 2, 10, 9, 2, 10, 9]))
    source = loaded(tmp_path / "set.npz", size=4)
    assert source.class_names == ("2", "9", "10") and source.images.shape == (8, 1, 4, 4)
    assert source.labels.tolist() == [2, 1, 0, 2, 1, 0, 2, 1] and source.given.tolist() == [""] * 8


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "names": ({"images": PIXELS}, "arrays images: needed are"),
    "floats": ({"images": PIXELS / 255, "labels": NAMES}, r"images: float64 \(8, 6, 5, 3\), allowed uint8"),
    "shape": ({"images": PIXELS[0], "labels": NAMES}, "6 images, 8 labels"),
    "flat": ({"images": PIXELS.reshape(8, -1), "labels": NAMES}, "allowed uint8"),
    "channels first": ({"images": PIXELS.transpose(0, 3, 1, 2), "labels": NAMES}, "allowed uint8"),
    "labels": ({"images": PIXELS, "labels": NAMES[:7]}, "8 images, 7 labels"),
    "label type": ({"images": PIXELS, "labels": np.linspace(0, 1, 8)}, r"8 labels \(float64\)"),
    "two shapes": (
        {"x_train": PIXELS, "y_train": NAMES, "x_test": PIXELS[:, :4], "y_test": NAMES},
        "allowed is one shape",
    ),
    "objects": ({"images": PIXELS, "labels": np.array(LABELS, object)}, "not an archive of arrays.*pickle"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_other_arrays_are_refused(tmp_path: Path, name: str) -> None:
    arrays, said = BAD[name]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path / "set.npz")


def test_damaged_and_large_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=NAMES)
    with pytest.raises(ConfigError, match="bytes of arrays, allowed 700"):
        archive(tmp_path / "set.npz", 700.0)
    whole = (tmp_path / "set.npz").read_bytes()
    for data in (whole[:-30], b"", whole[:200] + b"\0" * 40 + whole[240:]):
        (tmp_path / "set.npz").write_bytes(data)
        with pytest.raises(ConfigError, match="not an archive of arrays"):
            loaded(tmp_path / "set.npz")


@pytest.mark.parametrize("damage", ["locked", "lzma", "header", "no pixels", "long label"])
def test_whatever_an_archive_raises_is_one_line(tmp_path: Path, damage: str) -> None:
    path, form = tmp_path / "set.npz", zipfile.ZIP_LZMA if damage == "lzma" else zipfile.ZIP_STORED
    images = np.zeros((8, 0, 0), np.uint8) if damage == "no pixels" else PIXELS
    names = np.array(["9" * 5000, "dog"] * 4) if damage == "long label" else NAMES
    with zipfile.ZipFile(path, "w", form) as file:
        for name, array in (("images", images), ("labels", names)):
            member = io.BytesIO()
            np.save(member, array)
            file.writestr(f"{name}.npy", member.getvalue())
    data = bytearray(path.read_bytes())
    if damage == "locked":
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
    elif damage == "lzma":
        data[60:90] = b"\xff" * 30
    elif damage == "header":
        place = data.index(b"{'descr'")
        data[place : place + 118] = b"(" * 117 + b"\n"
        head = zlib.crc32(data[place - 10 : place - 10 + 128 + images.size]).to_bytes(4, "little")
        at = data.index(b"PK\x01\x02") + 16
        data[at : at + 4] = data[14:18] = head
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"^\S*set\.npz: "):
        loaded(path)


@pytest.mark.parametrize(
    "form", [Form(2, (3, 6, 5)), Form(2, (1, 6, 5)), Form(2, (3, 5, 5)), Form(1, (3, 4, 5))]
)
def test_arrays_are_made_to_what_another_project_had(tmp_path: Path, form: Form) -> None:
    pixels = PIXELS[..., 0]
    np.savez(tmp_path / "set.npz", images=pixels, labels=NAMES)
    recipe = DataRecipe(source="arrays", path=str(tmp_path / "set.npz"))
    found = load(recipe, Progress(), form).images
    assert np.array_equal(found, np.stack([fitted(image[None], form.shape) for image in pixels]))


def test_a_side_that_is_right_does_not_make_the_other_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=NAMES)
    assert loaded(tmp_path / "set.npz", size=5).images.shape == (8, 3, 5, 5)
