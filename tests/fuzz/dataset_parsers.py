"""Readers of data sets as they lie, and of lists of what a network was trained on."""

import io
import json
import random
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from qmu_edge.data.arrays import archive
from qmu_edge.data.declared import declared_in
from qmu_edge.data.decoding import decoded
from qmu_edge.data.index import SampleIndex
from qmu_edge.data.listed import listed
from qmu_edge.data.parquet import tables
from qmu_edge.data.pictures import Source
from qmu_edge.data.tars import archives
from tests.fuzz.device_parsers import ARRAY_WORDS, TAR_WORDS, summed
from tests.fuzz.mutate import mutated
from tests.fuzz.parser import JSON_WORDS, SHA, Parser, bytes_of

ROWS = (
    b"path,label,split,subject\nimage.png,cat,train,ana\n./image.png,cat,train,bo\n",
    b"path;label\r\nimage.png;cat\r\n", b"\xef\xbb\xbfLabel\tPATH\nowl\timage.png\n",
    "path,label\nimage.png,Zo\u00eb\n".encode("utf-16"),
)  # fmt: skip
ROW_WORDS = (
    b'"', b"''", b",", b";", b"\t", b"\n", b"\r", b"\0", b"\xff", b"\xfe\xff", b"../", b"/", b"\\",
    b"a" * 5000,
    b"\xe2\x80\xae", b"path,label", b'"' * 200_000, b"image.png,cat,test,ana\n",
)  # fmt: skip


@cache
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _listed(folder: Path, path: Path) -> None:
    (folder / "image.png").write_bytes(picture())
    pictures, names, _ = listed(path)
    assert {p.label for p in pictures} <= set(names)


@cache
def tars() -> list[bytes]:
    noted = json.dumps({"label": "cat", "split": "train", "subject": ["ana", "bo"]}).encode()
    members = {"a/1.png": picture(), "a/1.json": noted, "a/2.png": picture(), "a/2.cls": b"dog"}
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5
                archive.addfile(info, io.BytesIO(data))
        found.append(file.getvalue())
    return found


def _tar(rng: random.Random) -> bytes:
    """A changed archive, mostly with header sums that are right again."""
    data = mutated(rng, tars(), (*TAR_WORDS, *JSON_WORDS))
    return summed(data) if rng.random() < 0.8 else data


def _tars(folder: Path, path: Path) -> None:
    pictures, _, _ = archives(path)
    for each in pictures:
        decoded(each.file)


@cache
def arrays() -> list[bytes]:
    pixels, labels = np.zeros((4, 3, 3, 3), np.uint8), np.array(["a", "b", "a", "b"])
    found = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x_train=pixels, y_train=labels, subjects_train=labels)
        found.append(file.getvalue())
    return found


def _arrays(folder: Path, path: Path) -> None:
    found, _ = archive(path, 2.0**26)
    assert isinstance(found, Source) and len(found.images) == len(found.labels) == len(found.ids)


@cache
def columns() -> list[bytes]:
    import pyarrow
    from pyarrow import ipc, parquet

    rows = pyarrow.table({
        "image": [{"bytes": picture(), "path": None}] * 2, "label": ["cat", "dog"], "subject": ["ana", None],
    })  # fmt: skip
    table, stream = io.BytesIO(), io.BytesIO()
    parquet.write_table(rows, table)
    with ipc.new_stream(stream, rows.schema) as writer:
        writer.write_table(rows)
    return [table.getvalue(), stream.getvalue()]


def _columns(folder: Path, path: Path) -> None:
    suffix = ".parquet" if b"PAR1" in path.read_bytes()[:4] else ".arrow"
    path = path.rename(folder / f"set{suffix}")
    pictures, _, _ = tables(path)
    for each in pictures:
        decoded(each.file)


@cache
def index() -> SampleIndex:
    return SampleIndex.of(
        ids=["a", "b/c.png"], digests=[SHA] * 2, labels=np.zeros(2, np.int64), splits=np.zeros(2, np.int8),
        subjects=["", ""], class_names=("cat",),
    )  # fmt: skip


DATASET_PARSERS: dict[str, Parser] = {
    "table of images": Parser(_listed, bytes_of(lambda: ROWS, *ROW_WORDS), 10_000),
    "tar of images": Parser(_tars, _tar, 10_000),
    "arrays of images": Parser(_arrays, bytes_of(arrays, *ARRAY_WORDS), 10_000),
    "columns of images": Parser(_columns, bytes_of(columns, b"\0", b"\xff" * 8), 5_000),
    "what was trained on": Parser(
        lambda folder, path: declared_in(str(path), index()),
        bytes_of(lambda: [b"a\nb/c.png\n", b"a\r\n\r\n a"], b"\xff", b"\n", b"a\n"),
        2_000,
    ),
}
