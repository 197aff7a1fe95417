"""Every kind of dataset by the commands: registered, trained on, one person deleted, verified.

The pictures are the same, so all that are grey have the same digests, splits and people, however they lie.
"""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from qmu_edge.data.index import SampleSplit, content_digest
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from tests.cli.conftest import RECIPE, run_command

pytestmark = pytest.mark.slow

DIGITS: Any = load_digits()
N = 600
GREY = (DIGITS.images[:N] * (255 / 16)).round().astype(np.uint8)
LABELS = DIGITS.target[:N]
SPLITS = np.where(np.arange(N) % 5 == 4, "test", "train")
PEOPLE = [f"person-{i // 60}" for i in range(N)]


def png(i: int) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(GREY[i]).save(file, "PNG")
    return file.getvalue()


def table(folder: Path, samples: list[str]) -> tuple[str, ...]:
    """A list of whose each sample is, for sets that cannot say it."""
    lines = [f"{sample},{who}" for sample, who in zip(samples, PEOPLE, strict=True)]
    (folder / "subjects.csv").write_text("\n".join(["sample,subject", *lines]), "utf-8")
    return "--subjects", str(folder / "subjects.csv")


def folder(place: Path) -> tuple[str, ...]:
    """Folders of classes."""
    samples = [f"{SPLITS[i]}/{LABELS[i]}/{i:04d}.png" for i in range(N)]
    for i, sample in enumerate(samples):
        (place / "set" / sample).parent.mkdir(parents=True, exist_ok=True)
        (place / "set" / sample).write_bytes(png(i))
    return str(place / "set"), *table(place, samples)


def csv(place: Path) -> tuple[str, ...]:
    """A table of paths."""
    lines = ["path,label,split,subject"]
    for i in range(N):
        (place / f"{i:04d}.png").write_bytes(png(i))
        lines.append(f"{i:04d}.png,{LABELS[i]},{SPLITS[i]},{PEOPLE[i]}")
    (place / "labels.csv").write_text("\n".join(lines), "utf-8")
    return (str(place / "labels.csv"),)


def _columns(rows: list[int]) -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": png(i), "path": None} for i in rows],
        "label": [str(LABELS[i]) for i in rows],
        "subject": [PEOPLE[i] for i in rows],
    }


def parquet(place: Path) -> tuple[str, ...]:
    """One table with everything in it."""
    pyarrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    whole = pyarrow.table({**_columns([*range(N)]), "split": SPLITS.tolist()})
    written.write_table(whole, place / "set.parquet", row_group_size=100)
    return (str(place / "set.parquet"),)


def arrow(place: Path) -> tuple[str, ...]:
    """What `datasets` saves: a folder for each split."""
    pyarrow = pytest.importorskip("pyarrow")
    for split in ("train", "test"):
        part = pyarrow.table(_columns([i for i in range(N) if SPLITS[i] == split]))
        (place / "set" / split).mkdir(parents=True)
        with pyarrow.OSFile(str(place / "set" / split / "data-00000-of-00001.arrow"), "wb") as file:
            with pyarrow.ipc.new_stream(file, part.schema) as writer:
                writer.write_table(part, max_chunksize=100)
    return (str(place / "set"),)


def tar(place: Path) -> tuple[str, ...]:
    """WebDataset."""
    with tarfile.open(place / "set.tar", "w") as archive:
        for i in range(N):
            said = {"label": str(LABELS[i]), "split": SPLITS[i], "subject": PEOPLE[i]}
            for end, data in (("png", png(i)), ("json", json.dumps(said).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{end}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return (str(place / "set.tar"),)


def _by_split(values: np.ndarray) -> dict[str, np.ndarray]:
    return {split: values[SPLITS == split] for split in ("train", "test")}


def _numbered() -> list[str]:
    """Sample ids of sets that number theirs."""
    places = {"train": 0, "test": 0}
    found = []
    for split in SPLITS:
        found.append(f"{split}/{places[split]:06d}")
        places[split] += 1
    return found


def arrays(place: Path) -> tuple[str, ...]:
    """NumPy's archive."""
    made: dict[str, Any] = {f"x_{split}": of for split, of in _by_split(GREY).items()}
    made |= {f"y_{split}": of for split, of in _by_split(LABELS).items()}
    np.savez(place / "set.npz", **made)
    return str(place / "set.npz"), *table(place, _numbered())


def _idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def _idx_files(place: Path, name: str) -> None:
    """As torchvision's MNIST and FashionMNIST lie on a disk."""
    (place / name / "raw").mkdir(parents=True)
    for split, word in (("train", "train"), ("test", "t10k")):
        for kind, values in (("images-idx3", GREY), ("labels-idx1", LABELS)):
            data = _idx(_by_split(values)[split])
            path = place / name / "raw" / f"{word}-{kind}-ubyte"
            path.write_bytes(data)
            path.with_suffix(".gz").write_bytes(gzip.compress(data))


def torchvision(place: Path) -> tuple[str, ...]:
    """Any class of `torchvision.datasets`."""
    _idx_files(place, "MNIST")
    return "torchvision:MNIST", "--data-path", str(place), *table(place, _numbered())


def fashion_mnist(place: Path) -> tuple[str, ...]:
    """One that is known by name."""
    _idx_files(place, "FashionMNIST")
    short = [f"{split}/{int(number):05d}" for split, _, number in (s.partition("/") for s in _numbered())]
    return "fashion_mnist", "--data-path", str(place), *table(place, short)


SOURCES: dict[str, Callable[[Path], tuple[str, ...]]] = {
    one.__name__: one for one in (folder, csv, parquet, arrow, tar, arrays, torchvision, fashion_mnist)
}


def facts(project: Path) -> set[tuple[str, bool, bool]]:
    """The digest of each sample, whether it is for testing, and whether it was deleted."""
    with opened(project, Progress()) as found:
        index, gone = found.samples.index, found.samples.barred()
        testing = index.splits == SampleSplit.TEST
        return {(str(d), bool(testing[i]), bool(gone[i])) for i, d in enumerate(index.digests)}


EXPECTED = {(content_digest(GREY[i][None]), SPLITS[i] == "test", PEOPLE[i] == "person-3") for i in range(N)}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_goes_all_the_way(name: str, tmp_path: Path) -> None:
    dataset, *options = SOURCES[name](tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    shop, request = tmp_path / "shop", tmp_path / "req.json"
    at = ("--project", shop)
    for words in (
        ("init", shop, "--dataset", dataset, *options, "--recipe", tmp_path / "recipe.toml"),
        ("train", *at),
        ("request", "new", "--subject", "person-3", "--out", request),
        ("unlearn", "--request", request, *at),
        ("verify", shop / "release/model.onnx", *at),
        ("receipt", "verify", *at),
        ("doctor", *at),
    ):
        ended = run_command(*words)
        assert ended.code == 0, f"{words}: {ended.err}"
    assert facts(shop) == EXPECTED
