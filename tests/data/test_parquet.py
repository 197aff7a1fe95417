"""Tables of Arrow: what Hugging Face's datasets writes, and what others do."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.data.parquet import _Table, tables
from qmu_edge.errors import ConfigError
from tests.data.photos import LABELS, SPLITS, SUBJECTS, holds_all, loaded, png

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(rows: range = range(8), *, names: bool = True, without: str = "", **columns: list[Any]) -> Any:
    """Rows as `datasets` stores them: images as struct, labels as numbers whose names the schema holds."""
    numbers = [int(LABELS[i] == "cat") for i in rows]  # in another order than the alphabet's
    made: dict[str, list[Any]] = {
        "image": [{"bytes": png(i), "path": None} for i in rows], "label": numbers,
        "split": [SPLITS[i] for i in rows], "subject": [SUBJECTS[i] for i in rows], **columns,
    }  # fmt: skip
    made.pop(without, None)
    label = {"names": ["dog", "cat"], "_type": "ClassLabel"}
    notes = {"huggingface": json.dumps({"info": {"features": {"label": label}}})} if names else {}
    return pyarrow.table(made).replace_schema_metadata(notes)


def test_a_parquet_file_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    parquet.write_table(table(), tmp_path / "set.parquet", row_group_size=3)
    source = loaded(tmp_path / "set.parquet")
    assert holds_all(source) and source.class_names == ("dog", "cat")
    assert source.ids[:2] == ("set.parquet/000000", "set.parquet/000001")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "file"])
def test_a_folder_says_the_split_in_its_names(tmp_path: Path, kind: str) -> None:
    for split, rows in (("train", range(4)), ("validation", range(4, 6)), ("test", range(6, 8))):
        part = table(rows, without="split")
        if kind == "parquet":
            (tmp_path / "data").mkdir(exist_ok=True)
            parquet.write_table(part, tmp_path / f"data/{split}-00000-of-00001.parquet")
        else:
            (tmp_path / split).mkdir()
            new = pyarrow.ipc.new_stream if kind == "arrow" else pyarrow.ipc.new_file
            with pyarrow.OSFile(str(tmp_path / split / "data-00000-of-00001.arrow"), "wb") as file:
                with new(file, part.schema) as writer:
                    writer.write_table(part, max_chunksize=2)
    source = loaded(tmp_path)
    order = sorted(range(8), key=lambda i: (SPLITS[i], i))  # files come in the order of their names
    assert source.given.tolist() == [SPLITS[i] for i in order]
    assert [source.class_names[label] for label in source.labels] == [LABELS[i] for i in order]
    assert [" ".join(who) for who in source.subjects] == [SUBJECTS[i] for i in order]


def test_labels_may_be_text_images_bytes_and_ids_given(tmp_path: Path) -> None:
    ids, images = [f"photo-{i}" for i in range(8)], [png(i) for i in range(8)]
    made = table(names=False, image=images, label=list(LABELS), id=ids)
    parquet.write_table(made, tmp_path / "set.parquet")
    source = loaded(tmp_path / "set.parquet")
    assert holds_all(source) and source.ids == tuple(ids)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"without": "label"}, "columns image, split, subject: needed are label and one of images"),
    "no image": ({"without": "image"}, "columns label, split, subject: needed are"),
    "two images": ({"mask": [{"bytes": png(0), "path": None}] * 8}, "needed are label and one of images"),
    "label beyond": ({"label": [0, 1, 2, 0, 0, 0, 0, 0]}, "row 2: label 2, allowed 0 to 1"),
    "label missing": ({"label": [None] * 8}, "row 0: no label"),
    "split": ({"split": ["dev"] * 8}, "row 0: split 'dev'"),
    "bytes missing": ({"image": [{"bytes": None, "path": "a.png"}] * 8}, "holds no bytes of an image"),
    "no image in them": ({"image": [{"bytes": b"x", "path": None}] * 8}, "row 0: not a readable image"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_cannot_be_meant_are_named(tmp_path: Path, name: str) -> None:
    columns, said = BAD[name]
    parquet.write_table(table(**columns), tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path / "set.parquet")


@pytest.mark.parametrize(
    "notes", ["[]", "{", '{"info": 3}', '{"info": {"features": {"label": {"names": [1]}}}}', "[" * 9999]
)
def test_notes_that_are_no_notes_are_an_error(tmp_path: Path, notes: str) -> None:
    made = table().replace_schema_metadata({"huggingface": notes})
    parquet.write_table(made, tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match="its notes of classes"):
        loaded(tmp_path / "set.parquet")


def test_a_row_group_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmu_edge.data.parquet._MOST_GROUP", 100)
    parquet.write_table(table(), tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=r"a row group of .* allowed 100"):
        loaded(tmp_path / "set.parquet")


def test_damaged_files_are_an_error(tmp_path: Path) -> None:
    parquet.write_table(table(), tmp_path / "set.parquet", compression="NONE")
    whole = (tmp_path / "set.parquet").read_bytes()
    for data in (whole[:-20], whole[:100], b"", b"no table"):
        (tmp_path / "set.parquet").write_bytes(data)
        with pytest.raises(ConfigError, match="not a table"):
            loaded(tmp_path / "set.parquet")
        (tmp_path / "set.arrow").write_bytes(data)
        with pytest.raises(ConfigError, match="not a table"):
            loaded(tmp_path / "set.arrow")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match='needs pyarrow, the extra "parquet"'):
        loaded(tmp_path / "set.parquet")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"split": [1] * 8}, "row 0: split '1': allowed are"),
        ({"label": ["cat", "owl"] * 4}, "row 1: label 'owl', not among the classes"),
        ({"label": [[1], [2]] * 4}, "row 0: a label of the type list"),
        ({"subject": [{"name": "ana"}] * 8}, "row 0: a subject of the type dict"),
        ({"id": [1.5] * 8}, "row 0: an id of the type float"),
        ({"label": pyarrow.array([1, 2] * 4, pyarrow.timestamp("ns"))}, "column label: Nanosecond"),
    ],
)
def test_values_of_other_kinds_are_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    parquet.write_table(table(**columns), tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path / "set.parquet")


def test_a_row_shows_several_people_and_the_first_number_is_one(tmp_path: Path) -> None:
    parquet.write_table(table(subject=[["ana", "bo"]] + [[]] * 7), tmp_path / "lists.parquet")
    parquet.write_table(table(subject=[0, 1] * 4), tmp_path / "numbers.parquet")
    assert loaded(tmp_path / "lists.parquet").subjects[:2] == (("ana", "bo"), ())
    assert loaded(tmp_path / "numbers.parquet").subjects[:2] == (("0",), ("1",))


def test_places_that_lie_are_not_followed(tmp_path: Path) -> None:
    good = table(names=False, label=["cat", "dog"] * 4)
    with pyarrow.ipc.new_stream(tmp_path / "set.arrow", good.schema) as stream:
        stream.write_table(good)
    data = (tmp_path / "set.arrow").read_bytes()
    places = np.array(range(0, 27, 3), np.int32).tobytes()  # of labels of three letters
    assert data.count(places) == 1
    lying = places[:16] + b"\xff\xff\xff\x0f" * 5
    (tmp_path / "set.arrow").write_bytes(data.replace(places, lying))
    with pytest.raises(ConfigError, match=r"set\.arrow: not a table"):
        loaded(tmp_path / "set.arrow")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_is_no_file_in_a_folder_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    parquet.write_table(table(), tmp_path / "a.parquet")
    os.mkfifo(tmp_path / f"b.{suffix}")
    assert len(loaded(tmp_path).ids) == 8


def test_columns_of_other_lengths_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a damaged file has them, in which every column says for itself how many rows there are."""
    path = tmp_path / "set.parquet"
    parquet.write_table(table(range(2), names=False), path)
    real = _Table._group

    def shorter(self: Any, group: int, column: str) -> Any:
        return real(self, group, column)[: 1 if column == "label" else None]

    monkeypatch.setattr(_Table, "_group", shorter)
    with pytest.raises(ConfigError, match="damaged: column label has 1 rows, allowed 2"):
        tables(path)


def test_a_column_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.arrow"
    with pyarrow.ipc.new_stream(path, table(range(2), names=False).schema) as writer:
        writer.write_table(table(range(2), names=False))
    path.write_bytes(path.read_bytes().replace(b"subject", b"sub\x80ect"))
    with pytest.raises(ConfigError, match=r"set\.arrow: not a table: .*can't decode byte 0x80"):
        tables(path)
