"""Tar files in WebDataset's layout."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError
from tests.data.photos import LABELS, SPLITS, SUBJECTS, holds_all, loaded, png


def write(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = (
                len(data),
                1700000000.5,
            )  # a fraction, as writers give it: extended headers
            archive.addfile(info, io.BytesIO(data))
    return path


def members() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i in range(8):
        noted = {"label": LABELS[i], "split": SPLITS[i], "subject": SUBJECTS[i]}
        found |= {f"a/{i}.PNG": png(i), f"a/{i}.json": json.dumps(noted).encode()}
    return found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_read_from_where_they_lie(tmp_path: Path, form: int) -> None:
    source = loaded(write(tmp_path / "set.tar", members(), form))
    assert holds_all(source) and source.ids[0] == "set/a/0"


def test_labels_stand_in_cls_and_splits_in_names_of_files(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        rows = [i for i in range(8) if SPLITS[i] == split]
        parts = [{f"{i}.png": png(i), f"{i}.cls": f"{LABELS[i]}\n".encode()} for i in rows]
        write(tmp_path / f"{split}-000.tar", {name: data for part in parts for name, data in part.items()})
    (tmp_path / "deep/train").mkdir(parents=True)
    (tmp_path / "train-000.tar").rename(tmp_path / "deep/train/7.tar")
    source = loaded(tmp_path)
    assert sorted(source.given) == sorted(SPLITS) and source.class_names == ("cat", "dog")
    assert source.ids[0] == "deep/train/7/0"


def test_what_has_no_image_is_counted(tmp_path: Path) -> None:
    source = loaded(write(tmp_path / "set.tar", members() | {"b.cls": b"cat", "c.txt": b"words"}))
    assert source.read is not None and source.read["left_out"] == {
        "without an image": {"count": 2, "first": "set.tar/b"}
    }


def test_keys_and_members_that_are_not_read_are_named(tmp_path: Path) -> None:
    found = members()
    for i in (0, 1):
        noted = {"label": LABELS[i], "person": "ana", "age": 7}
        found |= {f"a/{i}.json": json.dumps(noted).encode(), f"a/{i}.mask.png": png(2)}
    source = loaded(write(tmp_path / "set.tar", found | {"a/3.txt": b"words"}))
    assert source.read is not None and source.read["left_out"] == {
        "keys of .json": {"count": 2, "first": "person, age"},
        "files with another suffix": {
            "count": 3, "first": "set.tar/a/0.mask.png", "suffixes": {".mask.png": 2, ".txt": 1},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a/0.json": b"{"}, "its .json"), ({"a/0.json": b"[]"}, "no object"),
        ({"a/0.json": b"{}"}, "no label"), ({"a/0.cls": b"\xff"}, "not UTF-8"),
        ({"a/0.json": b'{"label": "cat", "split": "dev"}'}, "split 'dev'"),
        ({"a/0.json": b"x" * 70_000}, "a label of 70000 bytes"), ({"a/0.PNG": b"x"}, "not a readable image"),
        ({"a/0.json": b"[" * 60_000}, "its .json"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_meant_are_named(tmp_path: Path, change: dict[str, bytes], said: str) -> None:
    with pytest.raises(ConfigError, match=f"a/0.*{said}"):
        loaded(write(tmp_path / "set.tar", members() | change))


def test_an_archive_that_is_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "set.tar", members())
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    for size in (*range(0, end + 1, 512), 100, end - 700, end + 511):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"cut off|not a whole"):
            loaded(path)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(ConfigError, match="not a whole, uncompressed tar"):
        loaded(tmp_path / "set.tar")
    with pytest.raises(ConfigError, match="no images"):
        loaded(write(tmp_path / "set.tar", {"a.txt": b""}))


def raw(
    path: Path, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None
) -> None:
    """Put a member in front of what closes an archive, of a size that may lie."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size is not None:
        head[124:136] = size.to_bytes(12, "big", signed=True)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
    with tarfile.open(path) as archive:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in archive)
    path.write_bytes(path.read_bytes()[:end] + head + data + bytes(-len(data) % 512) + bytes(1024))


def test_a_member_of_negative_size_is_refused_and_not_read_again_for_ever(tmp_path: Path) -> None:
    raw(write(tmp_path / "set.tar", members()), "x.png", size=-512)
    with pytest.raises(
        ConfigError, match=r"set\.tar: not a whole, uncompressed tar file: a member of -512 bytes"
    ):
        loaded(tmp_path / "set.tar")


def test_long_headers_are_refused_before_they_are_read(tmp_path: Path) -> None:
    raw(write(tmp_path / "set.tar", members()), "x", b"9" * 10_000, tarfile.XHDTYPE)
    with pytest.raises(ConfigError, match="a header of 10000 bytes, allowed 8192"):
        loaded(tmp_path / "set.tar")


def test_an_archive_that_is_damaged_in_its_middle_is_not_read_as_a_shorter_one(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "set.tar", members(), tarfile.USTAR_FORMAT).read_bytes())
    data[data.rindex(b"a/6.PNG")] ^= 1
    (tmp_path / "set.tar").write_bytes(data)
    with pytest.raises(ConfigError, match=r"set\.tar: cut off, or damaged, behind byte"):
        loaded(tmp_path / "set.tar")


@pytest.mark.parametrize("name", ["a/0.json", "/a/0.json", "a/0.png"])
def test_a_sample_is_not_made_of_the_parts_of_two(tmp_path: Path, name: str) -> None:
    data = json.dumps({"label": "dog", "subject": "eve"}).encode() if name.endswith("json") else png(3)
    raw(write(tmp_path / "set.tar", members()), name, data)
    with pytest.raises(ConfigError, match="a second file of this sample and suffix"):
        loaded(tmp_path / "set.tar")


def test_the_image_is_not_its_mask_and_of_two_none_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "set.tar", {"a/0.mask.png": png(5), **members()})
    assert holds_all(loaded(path))
    with pytest.raises(ConfigError, match=r"images \.png and \.jpg, allowed is one"):
        loaded(write(path, {**members(), "a/0.jpg": png(1)}))


def test_no_label_is_no_class_of_that_name(tmp_path: Path) -> None:
    path = write(tmp_path / "set.tar", {**members(), "a/0.json": b'{"label": null, "subject": 0}'})
    with pytest.raises(ConfigError, match="no label: needed is"):
        loaded(path)


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", members())
    os.mkfifo(tmp_path / "b.tar")
    assert len(loaded(tmp_path).ids) == 8
