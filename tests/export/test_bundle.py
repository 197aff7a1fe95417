"""Bundles as they are written: the same bytes for the same content, and nothing half done."""

import io
import json
import os
import shutil
import stat
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from qmu_edge.attestation.signature import MODEL_SIGNATURE
from qmu_edge.errors import ConfigError
from qmu_edge.export.bundle import GOLDEN_INPUTS, golden_images
from qmu_edge.io.files import UNFINISHED
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, PUBLIC_KEY, RECEIPT, SIGNATURE, Manifest
from qmu_edge.verify.session import OrtRunner
from tests.verify import files
from tests.verify.bundles import KEY, LIMITS, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model file."""
    return files.write(tmp_path / "model.onnx", files.qcdq())


def test_the_folder_holds_what_the_manifest_says(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    manifest = write(out, model)
    assert Manifest.parse((out / MANIFEST).read_bytes(), out) == manifest
    assert {p.name for p in out.iterdir()} == {*manifest.files, MANIFEST, SIGNATURE}
    assert set(manifest.files) == {"model.onnx", RECEIPT, PUBLIC_KEY, MODEL_SIGNATURE, *GOLDEN}
    assert manifest.thresholds == asdict(LIMITS)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex((out / PUBLIC_KEY).read_text()))
    public.verify(bytes.fromhex((out / SIGNATURE).read_text()), (out / MANIFEST).read_bytes())
    assert public == KEY.public_key()


def test_others_may_not_write_into_a_bundle_whatever_the_umask(model: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "above/bundle", model)
    finally:
        os.umask(before)
    made = [tmp_path / "above", *(tmp_path / "above").rglob("*")]
    assert len(made) > 8 and not [p for p in made if p.stat().st_mode & 0o022]


def test_golden_logits_are_those_of_the_model(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "bundle", model)
    images, logits = (np.load(tmp_path / "bundle" / name) for name in GOLDEN)
    assert images.shape == (GOLDEN_INPUTS, 3, 8, 8)
    assert np.array_equal(OrtRunner(model).logits(images), logits)


def test_same_content_gives_the_same_archive(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "first", model)
    write(tmp_path / "again", model)
    archive = (tmp_path / "first.tar").read_bytes()
    assert archive == (tmp_path / "again.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        assert members.getnames() == sorted(members.getnames())
        found = {m.name: (m.mtime, m.uid, m.uname, m.mode) for m in members}
        assert set(found.values()) == {(0, 0, "", stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)}
    assert json.loads((tmp_path / "first" / MANIFEST).read_text())["type"] == "urn:qmu-edge:bundle:v2"


def test_what_exists_is_not_written_over(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "bundle", model)
    held = {path: path.read_bytes() for path in [*(tmp_path / "bundle").iterdir(), tmp_path / "bundle.tar"]}
    with pytest.raises(ConfigError, match="exists already, and is not this bundle"):
        write(tmp_path / "bundle", model, number=4)
    assert {path: path.read_bytes() for path in held} == held
    (tmp_path / "bundle/more.txt").touch()
    with pytest.raises(ConfigError, match="bundle: exists already, and is not this bundle"):
        write(tmp_path / "bundle", model)
    (tmp_path / "other.tar").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"other\.tar: exists already, and is not this bundle"):
        write(tmp_path / "other", model)
    assert not (tmp_path / "other").exists()


def test_what_a_killed_run_has_left_is_completed(model: Path, tmp_path: Path) -> None:
    """Between any two of its steps: nothing, a part of the hidden folder, the folder, both."""
    out, archive, hidden = tmp_path / "bundle", tmp_path / "bundle.tar", tmp_path / f"{UNFINISHED}bundle"
    manifest = write(out, model)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    packed = archive.read_bytes()
    for left in ("hidden", "folder", "archive", "both"):
        if left in ("hidden", "archive"):
            shutil.rmtree(out)
        if left in ("hidden", "folder"):
            archive.unlink()
        if left == "hidden":
            hidden.mkdir()
            (hidden / "model.onnx").write_bytes(b"half")
        assert write(out, model) == manifest
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
        assert archive.read_bytes() == packed and not hidden.exists()


def test_golden_images_are_synthetic_and_always_the_same() -> None:
    images = golden_images(8, 3, 10)
    assert images.shape == (8, 3, 10, 10) and np.array_equal(images, golden_images(8, 3, 10))
    assert len({len(np.unique(image)) for image in images}) > 2


def test_a_full_disk_leaves_no_half_bundle(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qmu_edge.export.bundle.write_atomic", full)
    with pytest.raises(ConfigError, match="No space left"):
        write(tmp_path / "bundle", model)
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.glob(".tmp*"))
