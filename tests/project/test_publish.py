"""The folder `release`: files as the release says, switched in one step, whole or told."""

import os
import subprocess
from pathlib import Path
from types import MappingProxyType

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import TEMPORARY
from qmu_edge.project.project import STORE
from qmu_edge.project.publish import LINK, RELEASES, SUMS, Papers, files_in, is_whole, publish, sums
from qmu_edge.project.records import Release
from qmu_edge.store.objects import ObjectStore


def published(root: Path, *contents: bytes, papers: Papers = MappingProxyType({})) -> Path:
    """Publish a release of files 0.onnx, 1.onnx, ... and give its folder."""
    store = ObjectStore(root / STORE / "objects")
    files = {f"{n}.onnx": store.put_bytes(data) for n, data in enumerate(contents)}
    release = Release(checkpoint=sha256_of(b"c"), files=files, sizes={})
    link = publish(root, store, sha256_of(release.to_bytes()), release, papers)
    return link.resolve()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a store."""
    (tmp_path / STORE / "objects").mkdir(parents=True)
    return tmp_path


def test_files_and_papers_lie_behind_a_relative_link_and_their_sums_hold(root: Path) -> None:
    folder = published(root, b"one", b"two", papers={"receipt.json": b"receipt", "report.html": b"page"})
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != SUMS} == {
        "0.onnx": b"one", "1.onnx": b"two", "receipt.json": b"receipt",
        "report.html": b"page",
    }  # fmt: skip
    assert not os.path.isabs(os.readlink(root / LINK)) and is_whole(folder)
    subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, check=True, capture_output=True)


def test_another_release_is_another_folder_and_the_same_one_is_repaired(root: Path) -> None:
    first = published(root, b"one")
    assert published(root, b"two") != first and is_whole(first)
    (first / "0.onnx").write_bytes(b"altered")
    (first / "stranger").write_bytes(b"")
    assert not is_whole(first)
    assert published(root, b"one") == first == (root / LINK).resolve()
    assert is_whole(first) and files_in(first) == {"0.onnx": sha256_of(b"one"), SUMS: files_in(first)[SUMS]}
    assert len([*(root / STORE / RELEASES).iterdir()]) == 2


@pytest.mark.parametrize("damage", ["missing", "altered", "more", "a link", "no sums", "a hole"])
def test_a_folder_is_whole_only_as_its_sums_say(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / SUMS).write_bytes(sums({"a": sha256_of(b"a")}))
    (tmp_path / f"{TEMPORARY}x").write_bytes(b"of a writer at work")
    assert is_whole(tmp_path)
    if damage in ("missing", "a link"):
        (tmp_path / "a").rename(tmp_path.parent / "elsewhere")
    if damage == "a link":
        (tmp_path / "a").symlink_to(tmp_path.parent / "elsewhere")
    if damage == "altered":
        (tmp_path / "a").write_bytes(b"b")
    if damage == "more":
        (tmp_path / "b").mkdir()
    if damage == "a hole":
        os.truncate(tmp_path / "a", 1 << 40)
    if damage == "no sums":
        (tmp_path / SUMS).unlink()
    assert not is_whole(tmp_path)
    assert not is_whole(tmp_path / "absent")


def test_what_is_the_users_is_not_replaced(root: Path) -> None:
    (root / LINK).mkdir()
    with pytest.raises(ConfigError, match="not a link of qmu-edge"):
        published(root, b"one")
    assert not (root / STORE / RELEASES).exists()
