"""What `init` says of a dataset; the command itself is in `tests/cli/test_small_sets.py`."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmu_edge import api
from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import ConfigError
from qmu_edge.project.notices import notices, require_trainable
from tests.data.photos import LABELS, PIXELS, SUBJECTS, png


def index_of(*parts: tuple[int, int, int], classes: int = 10) -> SampleIndex:
    """Samples in parts of (class, split, how many)."""
    labels = np.array([k for k, _, n in parts for _ in range(n)], np.int64)
    splits = np.array([s for _, s, n in parts for _ in range(n)], np.int8)
    names = [f"{i}" for i in range(len(labels))]
    return SampleIndex.of(
        ids=names, digests=[hashlib.sha256(name.encode()).hexdigest() for name in names], labels=labels,
        splits=splits, subjects=["5" * 64] * len(names), class_names=[f"class {k}" for k in range(classes)],
    )  # fmt: skip


def test_thirty_unseen_images_are_enough_and_one_less_is_told() -> None:
    whole = [(0, 0, 2), (1, 0, 2), (0, 1, 1), (1, 2, 2)]
    assert notices(index_of(*whole, (0, 2, 28))) == []
    (told,) = notices(index_of(*whole, (0, 2, 27)))
    assert told.startswith("29 unseen images")


def test_a_class_with_validation_images_only_counts_as_trained_on() -> None:
    assert notices(index_of((0, 0, 9), (1, 0, 9), (2, 1, 9), (0, 2, 20), (1, 2, 20), (2, 2, 20))) == []


def test_of_many_classes_the_first_are_named() -> None:
    train, test = [(k, 0, 9) for k in range(10)], [(0, 1, 9), (0, 2, 40)]
    (told,) = notices(index_of(*train, *test))
    assert told == (
        "classes trained on and never tested: class 1, class 2, class 3, class 4, class 5 and 4 more"
    )


@pytest.mark.parametrize("other", [1, 2])
def test_two_classes_must_be_trained_on(other: int) -> None:
    require_trainable(index_of((0, 0, 1), (1, 0, 1)))
    with pytest.raises(ConfigError, match="training images of 1 classes"):
        require_trainable(index_of((0, 0, 5), (1, other, 5)))


def test_names_of_a_set_that_differ_in_spelling_only_are_said_without_the_name(tmp_path: Path) -> None:
    lines = ["path,label,subject"]
    for i in range(6):
        Image.new("L", (4, 4), 40 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{['Ana B', 'bo', 'ana  b'][i % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), "utf-8")
    made = api.init(tmp_path / "project", dataset=str(tmp_path / "labels.csv"))
    (said,) = [text for text in made["notices"] if "names" in text]
    assert said == "1 names differ in case or spacing only, the first are those of 0.png and 2.png"


People = tuple[str, ...]


def as_folder(place: Path, people: People) -> dict[str, Any]:
    for i in range(8):
        path = place / f"set/train/{LABELS[i]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    rows = [f"train/{LABELS[i]}/{i}.png,{people[i]}" for i in range(8)]
    (place / "whose.csv").write_text("\n".join(["sample,subject", *rows]), "utf-8")
    return {"dataset": str(place / "set"), "subjects": place / "whose.csv"}


def as_csv(place: Path, people: People) -> dict[str, Any]:
    for i in range(8):
        (place / f"{i}.png").write_bytes(png(i))
    rows = [f"{i}.png,{LABELS[i]},{people[i]}" for i in range(8)]
    (place / "labels.csv").write_text("\n".join(["path,label,subject", *rows]), "utf-8")
    return {"dataset": str(place / "labels.csv")}


def as_parquet(place: Path, people: People) -> dict[str, Any]:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": [png(i) for i in range(8)], "label": LABELS, "subject": people}
    parquet.write_table(pyarrow.table(columns), place / "set.parquet")
    return {"dataset": str(place / "set.parquet")}


def as_tar(place: Path, people: People) -> dict[str, Any]:
    with tarfile.open(place / "set.tar", "w") as archive:
        for i in range(8):
            noted = json.dumps({"label": LABELS[i], "subject": people[i]}).encode()
            for end, data in (("png", png(i)), ("json", noted)):
                member = tarfile.TarInfo(f"{i}.{end}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {"dataset": str(place / "set.tar")}


def as_arrays(place: Path, people: People) -> dict[str, Any]:
    np.savez(place / "set.npz", images=PIXELS, labels=np.array(LABELS), subjects=np.array(people))
    return {"dataset": str(place / "set.npz")}


def as_object(place: Path, people: People) -> dict[str, Any]:
    return {"dataset": [(PIXELS[i], LABELS[i], people[i]) for i in range(8)]}


@pytest.mark.parametrize("kind", [as_folder, as_csv, as_parquet, as_tar, as_arrays, as_object])
@pytest.mark.parametrize(
    ("people", "said"),
    [
        (("ana",) * 8, []),
        (SUBJECTS, ["whose 4 of 8 images are is not known: no request for a person finds these"]),
        (
            ("",) * 8,
            [
                "whose the images are is not known: requests can name samples and classes, and no person; "
                "init --subjects takes a list"
            ],
        ),
    ],
    ids=["all", "some", "none"],
)
def test_of_every_source_is_said_how_many_images_are_of_nobody_known(
    tmp_path: Path, kind: Callable[[Path, People], dict[str, Any]], people: People, said: list[str]
) -> None:
    made = api.init(tmp_path / "project", **kind(tmp_path, people))
    assert [text for text in made["notices"] if text.startswith("whose")] == said
