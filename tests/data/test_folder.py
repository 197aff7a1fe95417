"""What is read of an image folder, and what is left out of it and said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmu_edge.data.folder import listing
from qmu_edge.data.pictures import Source
from qmu_edge.data.sources import load, source_of
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe


def save(root: Path, *names: str, mode: str = "RGB", size: tuple[int, int] = (6, 6)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, len(name)).save(root / name)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")


def loaded(root: Path, size: int = 0) -> Source:
    return load(DataRecipe(source="folder", path=str(root), size=size), Progress())


def test_everything_that_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "train/dog/2.PNG", "test/cat/3.jpg")
    save(tmp_path, "val/cat/4.png", "train/cat/more/5.png", "train/6.png", "train/.thumbnails/7.png")
    touch(
        tmp_path, "subjects.csv", ".DS_Store", "train/cat/._1.png", "train/dog/.hidden.png", "train/.DS_Store"
    )
    touch(tmp_path, "train/cat/8.heic", "train/cat/9.HEIC", "train/dog/notes", "train/cow/10.txt")
    found = listing(tmp_path)
    assert [path.name for _, _, path in found.files] == ["1.png", "2.PNG", "3.jpg"]
    assert found.to_json() == {
        "hidden": {"count": 5, "first": ".DS_Store"},
        "beside train and test": {"count": 2, "first": "subjects.csv"},
        "files beside the classes": {"count": 1, "first": "train/6.png"},
        "folders within classes": {"count": 1, "first": "train/cat/more"},
        "files with another suffix": {
            "count": 4, "first": "train/cat/8.heic", "suffixes": {".heic": 2, ".txt": 1, "": 1},
        },
        "classes without images": {"count": 1, "first": "train/cow"},
    }  # fmt: skip
    assert loaded(tmp_path).class_names == ("cat", "dog")
    read = loaded(tmp_path).read
    assert read is not None and read["left_out"] == found.to_json()


def test_what_was_read_is_counted_by_mode_and_size_and_by_what_was_done(tmp_path: Path) -> None:
    save(tmp_path, "train/a/1.png", "train/a/2.png", "test/a/3.png")
    save(tmp_path, "train/a/4.png", mode="L", size=(5, 7))
    save(tmp_path, "train/a/5.png", mode="RGBA")
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / "train/a/6.png")
    read = loaded(tmp_path, size=4).read
    assert read == {
        "files": 6,
        "modes_and_sizes": {"RGB 6x6": 3, "L 5x7": 1, "RGBA 6x6": 1, "I;16 6x6": 1},
        "made_to": "3x4x4 (channels, height, width)",
        "decoded": {"16 bits, the upper 8 taken": 1, "transparent, laid on white": 1},
        "left_out": {},
    }


def test_of_many_sizes_the_most_frequent_are_shown(tmp_path: Path) -> None:
    for side in range(1, 15):
        save(tmp_path, *(f"train/a/{side}-{i}.png" for i in range(side)), size=(side, side))
    read = loaded(tmp_path, size=4).read
    assert read is not None and read["modes_and_sizes"] == {f"RGB {s}x{s}": s for s in range(14, 4, -1)} | {
        "others": 1 + 2 + 3 + 4
    }


def test_forty_deep_images_stay_forty(tmp_path: Path) -> None:
    for i in range(40):
        path = tmp_path / f"train/a/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 1000 + 1600 * i, np.uint16)).save(path)
    assert len({image.tobytes() for image in loaded(tmp_path).images}) == 40


def test_a_folder_with_other_names_is_refused_with_one_of_them(tmp_path: Path) -> None:
    save(tmp_path, "Training/cat/1.png")
    touch(tmp_path, ".DS_Store")
    with pytest.raises(
        ConfigError, match=r"no images in train/<class>/ and test/<class>/; it holds Training"
    ):
        listing(tmp_path)


@pytest.mark.parametrize("name", ["set.tar.gz", "set.TGZ", "photos.zip", "labels.csv.xz", "set.7z"])
def test_what_is_packed_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"set/{name}", "set/notes/1.txt")
    with pytest.raises(ConfigError, match=rf"{name}': packed: unpack it"):
        source_of(str(tmp_path / "set" / name))
    with pytest.raises(ConfigError, match=rf"no images in train/<class>/.*; it holds {name}: unpack it"):
        listing(tmp_path / "set")
    save(tmp_path / "set", "train/a/1.png")
    assert len(listing(tmp_path / "set").files) == 1  # it is left out, and counted


@pytest.mark.parametrize("link", ["train/a/2.png", "train/b", "train/a/sub", "train"])
def test_links_in_a_loop_end(tmp_path: Path, link: str) -> None:
    if link != "train":
        save(tmp_path, "train/a/1.png")
    (tmp_path / link).symlink_to(tmp_path / link)
    if link == "train/a/sub":  # no image by its name
        assert len(listing(tmp_path).files) == 1
    elif link == "train/b":
        assert listing(tmp_path).to_json() == {"files beside the classes": {"count": 1, "first": "train/b"}}
    else:
        with pytest.raises(ConfigError):
            loaded(tmp_path)


def test_a_class_that_links_to_its_parent_is_no_class(tmp_path: Path) -> None:
    save(tmp_path, "train/a/1.png")
    (tmp_path / "train/b").symlink_to(".")
    assert loaded(tmp_path).class_names == ("a",)
    assert listing(tmp_path).to_json()["classes without images"] == {"count": 1, "first": "train/b"}
