"""Bundles as they arrive on a device: refused when anything in them is not as it was."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.receipt.envelope import to_pem
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.bundle import golden, is_bundle, opened
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, SIGNATURE
from tests.verify import files
from tests.verify.bundles import KEY, OTHER_KEY, sign_again, write


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A small model file."""
    return files.write(tmp_path / "model.onnx", files.qcdq())


@pytest.fixture
def bundle(model_path: Path, tmp_path: Path) -> Path:
    """A bundle of the small model."""
    out = tmp_path / "bundle"
    write(out, model_path)
    return out


def test_a_trusted_key_tells_who_signed(bundle: Path, tmp_path: Path) -> None:
    public = tmp_path / "key.pub"
    public.write_text(KEY.public_key().public_bytes_raw().hex())
    for text in (public.read_text(), to_pem(KEY.public_key().public_bytes_raw())):
        public.write_text(text)
        with opened(bundle, public) as found:
            assert found.signature.startswith("valid, key ") and "came with" not in found.signature
    other = OTHER_KEY.public_key().public_bytes_raw().hex()
    public.write_text("no key")
    assert main([str(bundle), "--key", str(public)]) == ConfigError.exit_code
    public.write_text(other)
    assert main([str(bundle), "--key", str(public)]) == 4
    (bundle / SIGNATURE).unlink()
    assert main([str(bundle), "--key", str(public)]) == 4
    assert main([str(bundle)]) == 0


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(bundle: Path) -> None:
    target = bundle.parent / "elsewhere.json"
    shutil.move(bundle / "receipt.json", target)
    (bundle / "receipt.json").symlink_to(target)


def _manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((bundle / MANIFEST).read_text())
    change(document)
    sign_again(bundle, document)


def _stored(bundle: Path, name: str, data: bytes) -> None:
    """Put a file into the bundle and its digest into the manifest."""
    (bundle / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))


def _golden(bundle: Path, shape: tuple[int, ...], kind: str = "|u1") -> None:
    """An array header that announces more than there is."""
    buffer = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    _stored(bundle, "golden_images.npy", buffer.getvalue() + bytes(64))


def _spelt(bundle: Path, change: Callable[[str], str]) -> None:
    """Write the same signature in another way."""
    (bundle / SIGNATURE).write_text(change((bundle / SIGNATURE).read_text()))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "model changed": (lambda b: _flip(b / "model.onnx"), "model.onnx: SHA-256"),
    "receipt changed": (lambda b: _flip(b / "receipt.json"), "receipt.json: SHA-256"),
    "manifest changed": (lambda b: _flip(b / MANIFEST), "manifest"),
    "signature changed": (lambda b: (b / SIGNATURE).write_text("00" * 64), "not signed by"),
    "signature in capitals": (lambda b: _spelt(b, str.upper), "not signed by"),
    "signature with blanks": (lambda b: _spelt(b, lambda text: f"{text[:2]} {text[2:]}"), "not signed by"),
    "signature without a newline": (lambda b: _spelt(b, str.strip), "not signed by"),
    "signature is text": (lambda b: (b / SIGNATURE).write_text("yes"), "not signed by"),
    "truncated": (lambda b: os.truncate(b / "model.onnx", 100), "100 bytes, the manifest says"),
    "receipt of another": (lambda b: _stored(b, "receipt.json", b"{}"), "is not receipt"),
    "missing file": (lambda b: (b / "golden_logits.npy").unlink(), "golden_logits.npy: missing"),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), "no manifest.json"),
    "stowaway": (lambda b: (b / "more.py").write_text(""), "more.py: not in the manifest"),
    "folder inside": (lambda b: (b / "more").mkdir(), "more: not a regular file"),
    "link": (_link, "receipt.json: not a regular file"),
    "swapped models": (
        lambda b: _manifest(b, lambda m: m.update(model="receipt.json")), "receipt.json: ",
    ),
    "name with a folder": (
        lambda b: _manifest(b, lambda m: m["files"].update({"../x": m["files"]["model.onnx"]})), "malformed",
    ),
    "unknown field": (lambda b: _manifest(b, lambda m: m.update(run="sh")), "not of type"),
    "threshold of 2": (
        lambda b: _manifest(b, lambda m: m["thresholds"].update(max_ta_drop=2)), "no fraction",
    ),
    "threshold of a stranger": (
        lambda b: _manifest(b, lambda m: m["thresholds"].update(junit=0.5)), "a threshold is unknown",
    ),
    "threshold is true": (
        lambda b: _manifest(b, lambda m: m["thresholds"].update(max_ta_drop=True)), "found True, allowed",
    ),
    "model is a list": (lambda b: _manifest(b, lambda m: m.update(model=[])), r"model: found \[\]"),
    "golden inputs ask for 64 GiB": (lambda b: _golden(b, (2**36,)), "not a readable .npy file"),
    "golden inputs of objects": (lambda b: _golden(b, (4,), "|O"), "not a readable .npy file"),
    "huge key": (lambda b: _stored(b, "signing.pub", b"ab" * 10_000), "not signed by"),
    "model signature": (lambda b: _flip(b / "model.sig"), r"model\.sig: SHA-256 .*the manifest says"),
    "no model signature": (lambda b: (b / "model.sig").unlink(), r"model\.sig: missing"),
    "many files": (lambda b: [(b / f"f{i}").write_bytes(b"") for i in range(99)], "more than 66 files"),
    "huge manifest": (lambda b: (b / MANIFEST).write_bytes(b" " * 2**21), "larger than"),
    "manifest is a list": (lambda b: (b / MANIFEST).write_text("[]"), MANIFEST),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, message = DAMAGE[name]
    damage(bundle)
    expected = 8 if name == "swapped models" else 4
    assert main([str(bundle), "--junit", str(tmp_path / "junit.xml")]) == expected
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"


def test_a_bundle_of_an_earlier_version_has_no_model_signature(bundle: Path) -> None:
    (bundle / "model.sig").unlink()
    document = json.loads((bundle / MANIFEST).read_text())
    del document["files"]["model.sig"]
    sign_again(bundle, document)
    assert main([str(bundle)]) == 0


def test_a_wrong_answer_is_found(bundle: Path) -> None:
    logits = np.load(bundle / GOLDEN[1])
    np.save(bundle / GOLDEN[1], -logits)
    _stored(bundle, GOLDEN[1], (bundle / GOLDEN[1]).read_bytes())
    assert main([str(bundle)]) == 6


def test_golden_inputs_are_as_many_images_as_logits(bundle: Path) -> None:
    images, logits = golden(bundle)
    assert images.dtype == np.uint8 and logits.dtype == np.float32 and len(images) == len(logits) == 64
    for name, array in ((GOLDEN[0], images[:3]), (GOLDEN[1], logits.astype(np.float64))):
        np.save(bundle / name, array)
        with pytest.raises(IntegrityError, match=r"golden inputs: .*, allowed as many uint8 images"):
            golden(bundle)


def test_folders_and_archives_are_bundles(bundle: Path, model_path: Path) -> None:
    assert is_bundle(bundle) and is_bundle(Path("absent.tar")) and not is_bundle(model_path)
    assert all(is_bundle(Path(f"device.{packed}")) for packed in ("tar.gz", "tgz", "tar.zst", "zip"))
    for path in (bundle, bundle.with_name("bundle.tar")):
        with opened(path) as found:
            assert found.model.read_bytes() == model_path.read_bytes()
            assert len(found.manifest.files) == 6


def test_without_cryptography_the_signature_is_not_checked(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from qmu_edge.verify.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not checked, for want of") == 2  # the bundle's and the receipt's
