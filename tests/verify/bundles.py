"""Bundles of a small model, signed with one key."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.export.bundle import write_bundle
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.receipt.envelope import sign
from qmu_edge.verify.manifest import MANIFEST, RECEIPT, SIGNATURE, TYPE_V1, Issued, Manifest
from qmu_edge.verify.verdict import Thresholds

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIMITS = Thresholds(max_residual=0.3, max_ta_drop=0.04, max_ra_drop=None)
MODEL = "model.onnx"


CHECKPOINT = Sha256("c0" * 32)


def issued(number: int = 0, receipt: bytes | None = None) -> Issued:
    """After so many receipts, the last of which may be in the bundle."""
    return Issued(
        number=number, time="2026-11-02T15:10:01.123+00:00" if number else None, checkpoint=CHECKPOINT,
        receipt=None if receipt is None else sha256_of(receipt),
    )  # fmt: skip


def receipt_about(model: bytes, key: Ed25519PrivateKey = KEY, *, checkpoint: str | None = None) -> bytes:
    """As much of a receipt as a device reads."""
    subject = {"name": MODEL, "digest": {"sha256": hashlib.sha256(model).hexdigest()}}
    return sign(json.dumps(statement_about(subject, checkpoint)).encode(), key)


def statement_about(subject: dict[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """The statement of such a receipt."""
    predicate = {"checkpoints": {"after": checkpoint}, "verdict": {"passed": True}}
    return {"subject": [subject], "predicateType": "urn:qmu-edge:erasure-receipt:v3", "predicate": predicate}


def write(out: Path, model: Path, receipt: bytes | None = None, *, number: int = 3) -> Manifest:
    """Write a bundle of one model file with a receipt about it, or with another receipt."""
    data = model.read_bytes()
    receipt = receipt_about(data) if receipt is None else receipt
    return write_bundle(
        out, {MODEL: data, RECEIPT: receipt}, model=MODEL, thresholds=LIMITS, min_agreement=0.999,
        issued=issued(number, receipt), key=KEY,
    )  # fmt: skip


def write_files(out: Path, files: dict[str, bytes]) -> Manifest:
    """Write a bundle of several model files, from before any deletion."""
    return write_bundle(
        out, files, model=MODEL, thresholds=LIMITS, min_agreement=0.999, issued=issued(), key=KEY
    )


def write_alone(out: Path, model: Path, *, number: int) -> Manifest:
    """Write a bundle without a receipt."""
    return write_bundle(
        out, {MODEL: model.read_bytes()}, model=MODEL, thresholds=LIMITS, min_agreement=0.999,
        issued=issued(number), key=KEY,
    )  # fmt: skip


def make_old(bundle: Path) -> None:
    """Turn a bundle in a folder into what version 0.1 wrote."""
    document = json.loads((bundle / MANIFEST).read_text())
    del document["issued"], document["onnxruntime"]
    document["type"] = TYPE_V1
    sign_again(bundle, document)


def sign_again(bundle: Path, document: dict[str, Any]) -> None:
    """Give a bundle in a folder another manifest."""
    data = json.dumps(document).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / SIGNATURE).write_text(KEY.sign(data).hex() + "\n")
