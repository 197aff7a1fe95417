"""Python objects as datasets: torchvision's, and those that behave badly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmu_edge import api
from qmu_edge.data.objects import given
from qmu_edge.data.pictures import Decoder, Source
from qmu_edge.data.sources import load
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe
from tests.data.photos import LABELS, PIXELS, SPLITS, SUBJECTS, holds_all


class Photos:
    """Some of the pictures; `change` alters an item."""

    classes = ("cat", "dog")

    def __init__(self, rows: list[int], change: Callable[[Any], Any] = lambda item: item) -> None:
        """`rows` of the pictures."""
        self.rows, self.change = rows, change

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def __getitem__(self, i: int, /) -> Any:
        """Image, label and name."""
        row = self.rows[i]
        image = PIXELS[row] if row % 2 else Image.fromarray(PIXELS[row])
        return self.change((image, self.classes.index(LABELS[row]), SUBJECTS[row]))


def read(sets: Any) -> Source:
    return Decoder(0, Progress()).source(*given(sets))


def test_objects_are_read_by_split() -> None:
    sets = {s: Photos([i for i in range(8) if SPLITS[i] == s]) for s in ("train", "validation", "test")}
    source = read(sets)
    assert holds_all(source) and source.class_names == ("cat", "dog")
    assert source.ids[0] == "train/000000"


def test_labels_may_be_text_and_names_missing() -> None:
    source = read({"": Photos([0, 1], lambda item: (item[0], "bird"))})
    assert source.class_names == ("bird",) and source.subjects == () and source.given.tolist() == ["", ""]


def test_the_api_makes_a_project_of_one(tmp_path: Path) -> None:
    made = api.init(tmp_path / "project", dataset=Photos([*range(8)] * 3))
    assert made["samples"] == 24 and made["subjects"] == 3
    assert 'source = "object"' in (tmp_path / "project/qmu.toml").read_text("utf-8")
    with pytest.raises(ConfigError, match="register it from Python"):
        load(DataRecipe(source="object"), Progress())


def test_a_request_names_an_item_by_its_key_and_place(tmp_path: Path) -> None:
    sets = {"train": Photos([*range(8)] * 5), "val": Photos([1, 2])}
    made = api.init(tmp_path / "project", dataset=sets)
    assert made["first_sample"] == "train/000000"
    api.request_new(sample_ids=["train/000017"], out=tmp_path / "req.json")
    assert api.request_add(tmp_path / "req.json", tmp_path / "project")["images"] == 5  # with its copies
    alone = api.init(tmp_path / "alone", dataset=Photos([*range(8)]))
    assert alone["first_sample"] == "images/000000"


def test_an_item_of_other_parts_is_told_what_an_item_is() -> None:
    with pytest.raises(ConfigError, match=r"item 0: tuple of 4, allowed .*\(image, label, whose it is\)$"):
        read({"": Photos([0, 1], lambda item: (*item, 7))})


class Growing(Photos):
    """One more each time that it is asked."""

    def __len__(self) -> int:
        """More than before."""
        self.rows = [*self.rows, 0]
        return len(self.rows) - 1


class Broken(Photos):
    """Raises."""

    def __getitem__(self, i: int, /) -> Any:
        """Never."""
        raise RuntimeError("no disk")


BAD: dict[str, tuple[Any, str]] = {
    "grows": (Growing([0]), "its length was 1 and is 2"),
    "raises": (Broken([0]), "item 0: RuntimeError: no disk"),
    "is empty": (Photos([]), "no images"),
    "image alone": (Photos([0], lambda item: item[0]), "item 0: Image, allowed"),
    "floats": (Photos([1], lambda item: (item[0] / 255, *item[1:])), "item 0: float64"),
    "channels first": (Photos([1], lambda item: (item[0].T, *item[1:])), "allowed a Pillow image"),
    "label beyond": (Photos([0], lambda item: (item[0], 2)), "label 2, allowed 0 to 1"),
    "a name that none could write": (Photos([0], lambda item: (*item[:2], "a\u202eb")), "the subject has"),
}


@pytest.mark.parametrize("name", BAD)
def test_objects_that_behave_badly_end_in_one_line(name: str) -> None:
    dataset, said = BAD[name]
    with pytest.raises(ConfigError, match=said):
        read({"": dataset})


def test_any_dataset_of_torchvision_can_be_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for row in range(4):
            (tmp_path / f"{split}/{LABELS[row]}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIXELS[row]).save(tmp_path / f"{split}/{LABELS[row]}/{row}.png")
    recipe = DataRecipe.model_validate({"source": "torchvision:ImageFolder", "path": str(tmp_path / "train")})
    source = load(recipe, Progress())
    assert source.class_names == ("cat", "dog") and len(source.ids) == 4
    assert np.array_equal(source.images[0], PIXELS[0].transpose(2, 0, 1))
    for name in ("NoSuchSet", "folder", "wrap_dataset_for_transforms_v2"):
        other = recipe.model_copy(update={"source": f"torchvision:{name}"})
        with pytest.raises(ConfigError, match=f"torchvision:{name}: "):
            load(other, Progress())


class Shuffled(Photos):
    """Another item at a place each time it is asked for."""

    asked = 0

    def __getitem__(self, i: int, /) -> Any:
        """An item."""
        self.asked += 1
        return super().__getitem__((i + self.asked // 8) % 8)


class Nameless(Photos):
    """Classes that are none."""

    classes: Any = 5


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"train": Shuffled(list(range(8)))}, "train, item 0: another label or person than at first"),
        ({"train": Nameless([0, 1])}, "train: its classes: TypeError"),
        ({"train": Photos([0, 1], lambda item: (item[0], 1.0))}, "item 0: a label of the type float"),
        ({"train": Photos([0, 1], lambda item: (*item[:2], {"a": 1}))}, "item 0: a subject of the type dict"),
        ({"train": Photos([0, 1], lambda item: (np.zeros((0, 4), np.uint8), item[1]))}, "pixels, at least 1"),
    ],
)
def test_objects_that_say_something_else_are_refused(sets: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(sets)


def test_the_person_whose_number_is_0_is_one_and_a_list_is_several() -> None:
    assert read({"": Photos([0, 1], lambda item: (*item[:2], 0))}).subjects == (("0",), ("0",))
    assert read({"": Photos([0], lambda item: (*item[:2], ["ana", "bo"]))}).subjects == (("ana", "bo"),)
