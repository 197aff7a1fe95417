"""What a device says about a bundle's receipt: whether it covers every model file, and who vouches for it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from qmu_edge.errors import LedgerError, VerificationFailed
from qmu_edge.export.bundle import write_bundle
from qmu_edge.receipt.envelope import key_name, sign
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.bundle import read_bundle
from qmu_edge.verify.coverage import Coverage
from qmu_edge.verify.manifest import RECEIPT, SIGNATURE
from qmu_edge.verify.verification import Options, verify_bundle
from tests.verify import files
from tests.verify.bundles import (
    CHECKPOINT,
    KEY,
    LIMITS,
    MODEL,
    OTHER_KEY,
    issued,
    make_old,
    receipt_about,
    statement_about,
    write,
    write_alone,
)

MINE = key_name(KEY.public_key().public_bytes_raw())


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A small model file."""
    return files.write(tmp_path / "model.onnx", files.qcdq())


def _found(bundle: Path, key: Path | None = None) -> Coverage:
    return read_bundle(bundle, key).receipt


def test_the_receipt_says_who_signed_it(model_path: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine", model_path)
    own = Coverage(True, f"about model.onnx; signature valid, key {MINE} (the bundle's)")
    assert _found(tmp_path / "mine") == own
    write(tmp_path / "rotated", model_path, receipt_about(model_path.read_bytes(), OTHER_KEY))
    assert "another than the bundle's, which vouches for it" in _found(tmp_path / "rotated").text


def test_a_signature_that_is_missing_is_not_called_the_bundles(model_path: Path, tmp_path: Path) -> None:
    write(tmp_path / "bundle", model_path)
    (tmp_path / "bundle" / SIGNATURE).unlink()
    said = _found(tmp_path / "bundle").text
    assert "the bundle's" not in said and "nobody has signed the bundle" in said


def _of_another_key(receipt: bytes) -> bytes:
    other = OTHER_KEY.public_key()
    mine, stranger = (k.public_bytes_raw().hex().encode() for k in (KEY.public_key(), other))
    return receipt.replace(mine, stranger)


BAD_RECEIPTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no envelope": (lambda model: b"{}", "not a signed envelope"),
    "another model": (lambda model: receipt_about(b"another"), "is not about model.onnx"),
    "no subject": (lambda model: sign(b"{}", KEY), "not a receipt"),
    "subject is text": (lambda model: sign(b'{"subject":["x"]}', KEY), "not a receipt"),
    "payload is no JSON": (lambda model: sign(b"not JSON", KEY), "not a receipt"),
    "another key": (lambda model: _of_another_key(receipt_about(model)), "signature does not hold for key"),
}


@pytest.mark.parametrize("name", BAD_RECEIPTS)
def test_a_receipt_that_does_not_hold_is_refused_on_the_device(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    receipt, said = BAD_RECEIPTS[name]
    write(tmp_path / "bundle", model_path, receipt(model_path.read_bytes()))
    assert main([str(tmp_path / "bundle")]) == LedgerError.exit_code
    assert re.search(f"receipt.json: .*{said}", capsys.readouterr().err)


def _with(files_of: Mapping[str, bytes], receipt: bytes, out: Path) -> Path:
    write_bundle(
        out, {**files_of, RECEIPT: receipt}, model=MODEL, thresholds=LIMITS, min_agreement=0.999,
        issued=issued(3, receipt), key=KEY,
    )  # fmt: skip
    return out


def test_a_file_with_other_options_is_covered_by_its_network(model_path: Path, tmp_path: Path) -> None:
    """The receipt names other files of the checkpoint: the manifest's signer says that it is the same."""
    model = model_path.read_bytes()
    same = _with({MODEL: model}, receipt_about(b"as measured", checkpoint=CHECKPOINT), tmp_path / "same")
    found = _found(same)
    assert (
        found.covered and "about the network that model.onnx comes from, as the manifest says" in found.text
    )
    assert main([str(same)]) == 0
    other = _with({MODEL: model}, receipt_about(b"as measured", checkpoint="d0" * 32), tmp_path / "other")
    assert main([str(other)]) == LedgerError.exit_code
    make_old(same)
    assert main([str(same)]) == LedgerError.exit_code


def test_every_model_file_has_to_be_covered(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_path.read_bytes()
    more = onnx.load_from_string(model)
    more.producer_name = "another"  # computes the same
    both = {MODEL: model, "more.onnx": more.SerializeToString()}
    out = _with(both, receipt_about(model), tmp_path / "bundle")
    assert main([str(out)]) == VerificationFailed.exit_code
    printed = capsys.readouterr()
    assert "about model.onnx, and not about more.onnx" in printed.out
    assert printed.out.endswith("passed          no: not covered by a receipt\n")
    assert printed.err.endswith("bundle: not covered by a receipt\n")


def test_without_a_receipt_it_depends_on_whether_anything_was_deleted(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_alone(tmp_path / "first", model_path, number=0)
    assert main([str(tmp_path / "first")]) == 0
    assert re.search(r"receipt +none: nothing was deleted so far", capsys.readouterr().out)
    write_alone(tmp_path / "later", model_path, number=3)
    assert main([str(tmp_path / "later"), "--junit", str(tmp_path / "j.xml")]) == VerificationFailed.exit_code
    assert "none, though 3 were issued" in capsys.readouterr().out
    assert "not covered" in (tmp_path / "j.xml").read_text()
    make_old(tmp_path / "first")
    assert main([str(tmp_path / "first")]) == VerificationFailed.exit_code
    assert "a bundle of version 1 does not say" in capsys.readouterr().out


def test_bundles_of_version_1_are_read(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "bundle", model_path)
    make_old(tmp_path / "bundle")
    assert main([str(tmp_path / "bundle")]) == 0
    printed = capsys.readouterr().out
    assert "about model.onnx" in printed
    assert (
        "number          none: a bundle of version 1 does not show whether data were deleted since" in printed
    )


@pytest.mark.parametrize(
    "wrong", [{"predicateType": "anything"}, {"predicate": {"verdict": {"passed": False}}}, {"predicate": []}]
)
def test_what_only_looks_like_a_receipt_covers_nothing(
    model_path: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    model = model_path.read_bytes()
    subject = {"name": MODEL, "digest": {"sha256": hashlib.sha256(model).hexdigest()}}
    receipt = sign(json.dumps(statement_about(subject, None) | wrong).encode(), KEY)
    out = _with({MODEL: model}, receipt, tmp_path / "bundle")
    with pytest.raises(LedgerError, match="not a receipt"):
        verify_bundle(read_bundle(out), Options())
