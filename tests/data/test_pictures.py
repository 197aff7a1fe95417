"""Encoded images become one array, in memory or in a file; and which split a name means."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.data.decoding import Encoded
from qmu_edge.data.pictures import Decoder, Picture, label_of, split_of, split_of_name
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from tests.data.photos import LABELS, PIXELS, png


def pictures(n: int = 8) -> list[Picture]:
    return [Picture(f"p{i}", "", LABELS[i % 8], Encoded(f"p{i}", partial(png, i % 8))) for i in range(n)]


def test_a_file_on_disk_holds_what_memory_would(tmp_path: Path) -> None:
    many = pictures(150)  # more than are decoded at once
    here = Decoder(0, Progress()).source(many)
    there = Decoder(0, Progress(), cache=tmp_path / "images.npy").source(many)
    assert np.array_equal(here.images, there.images) and isinstance(there.images, np.memmap)
    assert np.array_equal(np.load(tmp_path / "images.npy"), PIXELS.transpose(0, 3, 1, 2)[np.arange(150) % 8])
    assert (tmp_path / "images.npy").stat().st_mode & 0o777 == 0o600


def test_only_a_few_images_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now, most = [0], [0]

    def one(i: int) -> bytes:
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        return png(i % 8)

    many = [Picture(f"p{i}", "", "a", Encoded(f"p{i}", partial(one, i))) for i in range(300)]
    decoder = Decoder(0, Progress(), cache=tmp_path / "images.npy")

    def counted(images: object) -> object:
        for image in images:  # type: ignore[attr-defined]
            open_now[0] -= 1
            yield image

    decoded = Decoder._decoded
    monkeypatch.setattr(Decoder, "_decoded", lambda self, *of: counted(decoded(self, *of)))
    monkeypatch.setattr("qmu_edge.data.pictures.mode_and_size", lambda file: ("RGB", 5, 6))
    decoder.source(many)
    assert most[0] <= 2 * 64 and open_now[0] in (0, 1)  # the first one is decoded once more, for its size


def test_what_becomes_too_large_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    decoder = Decoder(64, Progress(), cache=tmp_path / "images.npy", most_bytes=8 * 3 * 64 * 64 - 1.0)
    with pytest.raises(ConfigError, match=r"8 decoded images of \(3, 64, 64\).*data.disk_gb"):
        decoder.source(pictures())
    assert not list(tmp_path.iterdir())


def test_a_damaged_image_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    some = [*pictures(), Picture("bad", "", "cat", Encoded("table, row 8", lambda: png(0)[:60]))]
    with pytest.raises(ConfigError, match="table, row 8: not a readable image"):
        Decoder(0, Progress(), cache=tmp_path / "images.npy").source(some)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "split"),
    [("Train", "train"), (" test ", "test"), ("val", "validation"), ("valid", "validation"), ("", "")],
)
def test_splits_have_several_names(text: str, split: str) -> None:
    assert split_of(text, "here") == split


def test_another_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="line 3: split 'dev': allowed are train, validation and test"):
        split_of("dev", "line 3")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"), ("data/test-00000-of-00001.arrow", "test"), ("val/x.arrow", "validation"),
        ("train/shard_3.tar", "train"), ("trainer.tar", ""), ("000017.tar", ""), ("train/test_1.tar", "test"),
    ],
)  # fmt: skip
def test_a_file_may_say_of_which_split_its_rows_are(name: str, split: str) -> None:
    assert split_of_name(name) == split


def test_labels_are_text_or_whole_numbers() -> None:
    assert label_of(" cat ", "row 0") == "cat" and label_of(0, "row 0") == "0"
    assert label_of(np.uint8(1), "row 0", ("a", "b")) == "b"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "no label"), (" ", "no label"), (1.0, "type float"), ([1], "type list"),
        (b"cat", "type bytes"), (2, "label 2, allowed 0 to 1"), (-1, "label -1"),
    ],
)  # fmt: skip
def test_a_label_that_is_nothing_or_something_else_is_refused(found: object, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^row 0: .*{said}"):
        label_of(found, "row 0", ("a", "b"))
