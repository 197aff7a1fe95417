"""A table of paths and labels, as people write it."""

import time
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError
from tests.data.photos import LABELS, SPLITS, SUBJECTS, holds_all, loaded, png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(8):
        (tmp_path / f"photos/{i}.png").write_bytes(png(i))
    return tmp_path


def table(root: Path, *lines: str, header: str = "path,label,split,subject") -> Path:
    (root / "labels.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return root / "labels.csv"


def lines() -> list[str]:
    return [f"photos/{i}.png,{LABELS[i]},{SPLITS[i]},{SUBJECTS[i]}" for i in range(8)]


def test_pictures_are_read_with_label_split_and_person(root: Path) -> None:
    source = loaded(table(root, *lines()))
    assert holds_all(source) and source.ids[0] == "photos/0.png"


def test_columns_may_be_missing_or_more_and_in_another_order(root: Path) -> None:
    rows = [f"{LABELS[i]};x;photos/{i}.png" for i in range(8)]
    source = loaded(table(root, *rows, header="LABEL;camera;Path"))
    assert source.given.tolist() == [""] * 8 and source.subjects == ()
    assert source.read is not None and source.read["left_out"] == {"columns": {"count": 1, "first": "camera"}}


def test_a_picture_of_two_people_has_two_lines(root: Path) -> None:
    source = loaded(table(root, *lines(), "photos/0.png,cat,train,dan"))
    assert source.subjects[0] == ("ana", "dan") and len(source.ids) == 8


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("photos/0.png,dog,train,ana", "line 10: 'photos/0.png' has another label or split than in line 2"),
        ("photos/0.png,cat,test,ana", "another label or split"),
        ("photos/9.png,cat,train,", "1 of 9 images are missing: photos/9.png$"),
        ("../photos/0.png,cat,train,", "allowed are paths below the table's folder"),
        ("/etc/hostname,cat,train,", "allowed are paths below"),
        ("photos/0.png,cat,dev,", "line 10: split 'dev'"),
        ("photos/0.png,  ,train,", "line 10: no label"),
        ("photos/0.png,cat,train", "line 10: 3 fields, allowed 4"),
        ("photos/0.png,cat,train,a\u202eb", "line 10: the subject has"),
        (",cat,train,", "path ''"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(root: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(table(root, *lines(), line))


def test_missing_images_are_named_and_counted(root: Path) -> None:
    some = [f"photos/x{i}.png,cat,train," for i in range(30)]
    with pytest.raises(ConfigError, match=r"30 of 38 images are missing: photos/x0.png, .*x19.png and 10"):
        loaded(table(root, *lines(), *some))


def test_links_stay_inside(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "0.png"
    other.write_bytes(png(0))
    (root / "photos/link.png").symlink_to(other)
    with pytest.raises(ConfigError, match="a link that leads out"):
        loaded(table(root, *lines(), "photos/link.png,cat,train,"))


@pytest.mark.parametrize(
    "header", ["file,label,split,subject", "path,class,split,subject", "path,path,label,a"]
)
def test_a_table_of_other_columns_is_refused(root: Path, header: str) -> None:
    with pytest.raises(ConfigError, match="the first line must be the header path,label"):
        loaded(table(root, *lines(), header=header))
    with pytest.raises(ConfigError, match="no images"):
        loaded(table(root))


@pytest.mark.parametrize("spelling", ["./photos/0.png", "photos//0.png", "photos/./0.png", "photos\\0.png"])
def test_one_file_has_one_id_however_it_is_spelled(root: Path, spelling: str) -> None:
    source = loaded(table(root, *lines(), f"{spelling},cat,train,dan"))
    assert source.subjects[0] == ("ana", "dan") and len(source.ids) == 8


def test_two_files_whose_names_are_alike_are_not_one_picture(root: Path) -> None:
    for i, name in enumerate(("e\u0301.png", "\u00e9.png")):
        (root / name).write_bytes(png(i))
    with pytest.raises(ConfigError, match="line 3: another file, of the same name as in line 2"):
        loaded(table(root, "e\u0301.png,cat,train,ana", "\u00e9.png,cat,train,bo"))


def test_a_name_that_is_longer_than_any_files_is_missing(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels.csv: 1 of 9 images are missing: aaa"):
        loaded(table(root, *lines(), "a" * 300 + ".png,cat,train,"))


def test_many_people_in_one_picture_take_no_longer_than_in_many(root: Path) -> None:
    path = table(root, *lines(), *(f"photos/0.png,cat,train,p{i}" for i in range(20_000)))
    before = time.process_time()
    assert len(loaded(path).subjects[0]) == 20_001
    assert time.process_time() - before < 3
