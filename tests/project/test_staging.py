"""An `init` that was killed while it decoded goes on; images that somebody else has decoded are not taken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmu_edge.data.cache import journal_of
from qmu_edge.project.project import STORE
from qmu_edge.project.samples import IMAGES
from qmu_edge.project.staging import STAGING, staging_in
from tests.cli.conftest import run_command as run

ROOT = Path(__file__).resolve().parents[2]


def photos(folder: Path, count: int, side: int) -> Path:
    """A folder of pictures that take a while to decode."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("train", "test")[i % 4 == 3] / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((side, side)).save(place / f"{i:05d}.jpg", quality=90)
    return folder


def killed(project: Path, dataset: Path, images: int) -> None:
    """Start `init`, and kill it when so many images are in its journal."""
    words = ["init", str(project), "--dataset", str(dataset), "--quiet"]
    start = "from qmu_edge.cli.main import main; main()"
    child = subprocess.Popen([sys.executable, "-c", start, *words], cwd=ROOT)
    journal = journal_of(project / STAGING / IMAGES)
    until = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= images):
        assert child.poll() is None and time.monotonic() < until, "it has ended before it was killed"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (project / STORE).exists()


@pytest.mark.slow
def test_init_that_is_killed_twice_ends_as_one_that_was_not(tmp_path: Path) -> None:
    dataset = photos(tmp_path / "photos", 600, 900)
    assert run("init", tmp_path / "whole", "--dataset", dataset).code == 0
    for images in (60, 200):
        killed(tmp_path / "shop", dataset, images)
    ended = run("init", tmp_path / "shop", "--dataset", dataset, "--json")
    assert ended.code == 0, ended.err
    again = int(ended.err.partition(" images had been decoded before")[0].rpartition("\n")[2])
    assert 200 <= again < 600
    whole, shop = ((tmp_path / name / STORE / IMAGES).read_bytes() for name in ("whole", "shop"))
    assert whole == shop
    assert not (tmp_path / "shop" / STAGING).exists()
    assert {path.name for path in (tmp_path / "shop" / STORE / "cache").iterdir()} == {"images.npy"}
    assert run("doctor", "--project", tmp_path / "shop").code == 0
    again_whole = run("init", tmp_path / "again", "--dataset", dataset, "--json")
    names = ("split", "samples", "read")
    assert {n: ended.json[n] for n in names} == {n: again_whole.json[n] for n in names}


@pytest.mark.slow
def test_a_source_that_changes_in_between_is_noticed(tmp_path: Path) -> None:
    dataset = photos(tmp_path / "photos", 400, 900)
    killed(tmp_path / "shop", dataset, 100)
    changed = sorted((dataset / "train/cat").iterdir())[0]  # is decoded first
    Image.new("RGB", (900, 900), "red").save(changed)
    ended = run("init", tmp_path / "shop", "--dataset", dataset, "--json")
    assert ended.code == 0, ended.err
    assert "1 had been, and are others now or not whole: decoded again" in ended.err
    fresh = run("init", tmp_path / "fresh", "--dataset", dataset, "--json")
    assert ended.json["split"] == fresh.json["split"]


@pytest.mark.slow
def test_images_that_came_with_the_folder_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = photos(tmp_path / "photos", 400, 900)
    killed(tmp_path / "shop", dataset, 100)
    shutil.copytree(tmp_path / "shop", tmp_path / "theirs")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    ended = run("init", tmp_path / "theirs", "--dataset", dataset, "--json")
    assert ended.code == 0 and "decoded before" not in ended.err


def test_after_an_error_nothing_is_left_and_after_an_interrupt_the_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), staging_in(tmp_path):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), staging_in(tmp_path):
        raise KeyboardInterrupt  # before anything was decoded
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), staging_in(tmp_path) as folder:
        for path in (folder / IMAGES, journal_of(folder / IMAGES), folder / "ledger.db"):
            path.write_bytes(b"begun")
        raise KeyboardInterrupt
    with staging_in(tmp_path) as folder:
        assert (folder / IMAGES).read_bytes() == b"begun" and not (folder / "ledger.db").exists()
        (folder / IMAGES).unlink()
    with pytest.raises(ValueError, match="no"), staging_in(tmp_path) as folder:
        assert not journal_of(folder / IMAGES).exists()
        raise ValueError("no")


def test_a_link_among_them_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"keep me")
    with pytest.raises(KeyboardInterrupt), staging_in(tmp_path) as folder:
        journal_of(folder / IMAGES).touch()
        (folder / IMAGES).symlink_to(tmp_path / "secret")
        raise KeyboardInterrupt
    with staging_in(tmp_path) as folder:
        assert not (folder / IMAGES).exists()
    assert (tmp_path / "secret").read_bytes() == b"keep me"


def test_where_nothing_can_be_noted_a_project_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with staging_in(tmp_path) as folder:
        assert not list((folder / "cache").iterdir())
