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
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.receipt.envelope import to_pem
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.bundle import golden, is_bundle, read_bundle
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, SIGNATURE
from tests.opens import counted
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
        found = read_bundle(bundle, public)
        assert found.signature.startswith("valid, key ") and "came with" not in found.signature
    other = OTHER_KEY.public_key().public_bytes_raw().hex()
    public.write_text("no key")
    assert main([str(bundle), "--key", str(public)]) == ConfigError.exit_code
    public.write_text(other)
    assert main([str(bundle), "--key", str(public)]) == 4
    (bundle / SIGNATURE).unlink()
    assert main([str(bundle), "--key", str(public)]) == 4
    assert main([str(bundle)]) == 0


CAME_WITH_IT: dict[str, Callable[[Path], str]] = {
    "its own": lambda b: str(b / "signing.pub"),
    "a link": lambda b: _made(b, lambda key: key.symlink_to(b / "signing.pub")),
    "a second name": lambda b: _made(b, lambda key: os.link(b / "signing.pub", key)),
    "a folder that leads there": lambda b: str(_made(b, lambda link: link.symlink_to(b)) + "/signing.pub"),
}


def _made(bundle: Path, make: Callable[[Path], object]) -> str:
    make(bundle.with_name("key.pub"))
    return str(bundle.with_name("key.pub"))


@pytest.mark.parametrize("name", CAME_WITH_IT)
def test_a_key_that_came_with_the_bundle_vouches_for_nothing(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    key = CAME_WITH_IT[name](bundle)
    assert main([str(bundle), "--key", key]) == ConfigError.exit_code
    printed = capsys.readouterr()
    assert f"{key}: came with the bundle" in printed.err and not printed.out


def test_a_key_beside_the_unpacked_archive_came_with_it(bundle: Path, tmp_path: Path) -> None:
    """A copy of the key alone cannot be told from one that is trusted: whoever copies it, trusts it."""
    archive = str(bundle.with_name("bundle.tar"))
    assert main([archive, "--key", str(bundle / "signing.pub")]) == ConfigError.exit_code
    shutil.copyfile(bundle / "signing.pub", tmp_path / "trusted.pub")
    assert main([archive, "--key", str(tmp_path / "trusted.pub")]) == 0


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
    "huge key": (lambda b: _stored(b, "signing.pub", b"ab" * 10_000), "20000 bytes, allowed 1024"),
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
    found = read_bundle(bundle)
    images, logits = golden(found)
    assert images.dtype == np.uint8 and logits.dtype == np.float32 and len(images) == len(logits) == 64
    for name, array in ((GOLDEN[0], images[:3]), (GOLDEN[1], logits.astype(np.float64))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        with pytest.raises(IntegrityError, match=r"golden inputs: .*, allowed as many uint8 images"):
            golden(replace(found, content={**found.content, name: buffer.getvalue()}))


def test_folders_and_archives_are_bundles(bundle: Path, model_path: Path) -> None:
    assert is_bundle(bundle) and is_bundle(Path("absent.tar")) and not is_bundle(model_path)
    assert all(is_bundle(Path(f"device.{packed}")) for packed in ("tar.gz", "tgz", "tar.zst", "zip"))
    for path in (bundle, bundle.with_name("bundle.tar")):
        found = read_bundle(path)
        assert found.model.data == model_path.read_bytes()
        assert len(found.manifest.files) == 6


def test_without_cryptography_the_signature_is_not_checked(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from qmu_edge.verify.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not checked, for want of") == 2  # the bundle's and the receipt's


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_each_file_of_a_bundle_is_read_once(bundle: Path, tmp_path: Path, name: str) -> None:
    """Who swaps a file after it was verified changes nothing."""
    (tmp_path / "key").write_text(KEY.public_key().public_bytes_raw().hex())
    with counted(tmp_path) as opened:
        assert main([str(tmp_path / name), "--key", str(tmp_path / "key")]) == 0
    within = {f"bundle/{path.name}" for path in bundle.iterdir()} if name == "bundle" else {name}
    assert opened.keys() == {*within, "key"} and set(opened.values()) == {1}, opened


def test_a_link_that_is_put_in_place_of_a_file_is_not_followed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(path: Path) -> set[str]:
        names = {entry.name for entry in path.iterdir()}
        _link(path)  # after the folder was looked at
        return names

    monkeypatch.setattr("qmu_edge.verify.bundle._names_in", listed)
    with pytest.raises(IntegrityError, match=r"receipt\.json: cannot be read"):
        read_bundle(bundle)


def test_what_stays_in_memory_is_bounded(bundle: Path) -> None:
    huge = [f"m{i}.onnx" for i in range(3)]
    for name in huge:
        (bundle / name).touch()
        os.truncate(bundle / name, 2**30)
    entry = {"sha256": "0" * 64, "bytes": 2**30}
    _manifest(bundle, lambda m: m["files"].update(dict.fromkeys(huge, entry)))
    with pytest.raises(IntegrityError, match=r"bytes of files that are kept, allowed 2147483647"):
        read_bundle(bundle)
