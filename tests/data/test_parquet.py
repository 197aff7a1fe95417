"""Tables of Arrow: what Hugging Face's datasets writes, and what others do."""

import json
import os
import signal
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


def test_columns_that_are_not_read_are_named_once_for_all_files(tmp_path: Path) -> None:
    for split, more in (("train", {"person": ["ana"] * 4}), ("test", {"age": [7] * 4, "person": ["bo"] * 4})):
        part = table(range(4), without="subject", **more)
        parquet.write_table(part, tmp_path / f"{split}.parquet")
    source = loaded(tmp_path)
    assert source.subjects == () and source.read is not None
    assert source.read["left_out"] == {"columns": {"count": 2, "first": "age, person"}}


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
    whole = path.read_bytes()
    for name, changed in ((b"subject", b"sub\x80ect"), (b"bytes", b"by\x80es")):
        path.write_bytes(whole.replace(name, changed))
        with pytest.raises(ConfigError, match=r"set\.arrow: not a table: .*can't decode byte 0x80"):
            tables(path)


LARGE = os.urandom(1 << 20)


@pytest.mark.parametrize("nested", [True, False])
def test_an_image_that_a_file_says_once_is_held_once(tmp_path: Path, nested: bool) -> None:
    """A megabyte of Parquet became a gigabyte for each thousand rows."""
    kind = pyarrow.struct([("bytes", pyarrow.binary())]) if nested else pyarrow.binary()
    images = pyarrow.array([{"bytes": LARGE} if nested else LARGE] * 60, kind)
    repeated = pyarrow.table({"image": images, "label": pyarrow.array([0] * 60)})
    path = tmp_path / "set.parquet"
    parquet.write_table(repeated, path, dictionary_pagesize_limit=1 << 30, store_schema=False)
    found = _Table(path)
    assert found._group(0, "image").nbytes < 2 << 20
    assert [*found.pictures("set")][59].file.data() == LARGE  # type: ignore[union-attr]


def test_there_are_no_more_rows_than_bytes(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    rows = pyarrow.table({"image": pyarrow.array([b"x"] * 100_000), "label": pyarrow.array([0] * 100_000)})
    parquet.write_table(rows, path)
    with pytest.raises(ConfigError, match="column image: 100000 values in a file of"):
        tables(path)


SAID_OFTEN: dict[str, Any] = {
    "text": lambda text: [text] * 9,
    "a list": lambda text: [[text, text]] * 9,
    "a dictionary": lambda text: pyarrow.array([text] * 9).dictionary_encode(),
    "parts": lambda text: [{"a": text}] * 9,
}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("name", SAID_OFTEN)
def test_texts_of_a_row_group_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    monkeypatch.setattr("qmu_edge.data.parquet._MOST_GROUP", 100_000)
    path, columns = tmp_path / f"set{suffix}", {"image": [LARGE[:9]] * 9, "label": [0] * 9}
    said = pyarrow.table(columns | {"subject": SAID_OFTEN[name]("a" * 20_000)})
    if suffix == ".parquet":
        parquet.write_table(said, path, compression="zstd")
    else:
        with pyarrow.ipc.new_file(path, said.schema) as writer:
            writer.write_table(said)
    with pytest.raises(ConfigError, match=r"column subject: 9 rows of up to [24]0000 bytes, allowed 100000"):
        tables(path)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_a_compressed_arrow_file_is_refused_before_it_is_unpacked(tmp_path: Path, form: str) -> None:
    write = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    path = tmp_path / "set.arrow"
    for compression in ("zstd", "lz4", None):
        options = pyarrow.ipc.IpcWriteOptions(compression=compression)
        with write(path, table(range(2)).schema, options=options) as writer:
            writer.write_table(table(range(2)))
        if compression:
            with pytest.raises(ConfigError, match="a compressed Arrow file"):
                tables(path)
    assert len(tables(path)[0]) == 2


def test_a_compressed_dictionary_of_an_arrow_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.arrow"
    said = pyarrow.table({"image": [b"x"], "label": pyarrow.array(["a" * 9999]).dictionary_encode()})
    with pyarrow.ipc.new_stream(
        path, said.schema, options=pyarrow.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(said)
    with pytest.raises(ConfigError, match="a compressed Arrow file"):
        tables(path)


def test_a_file_at_which_pyarrow_ends_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort of a library's is no exception; a damaged table must not end the command like that."""
    parquet.write_table(table(), tmp_path / "set.parquet")
    for ending in (lambda _: os.kill(os.getpid(), signal.SIGKILL), lambda _: [][0]):
        monkeypatch.setattr("qmu_edge.data.parquet._counted", lambda about, ending=ending: ending(about))
        with pytest.raises(ConfigError, match=r"set\.parquet: not a table: the columns of its row groups"):
            loaded(tmp_path / "set.parquet")
