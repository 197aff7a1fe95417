"""Bundles of a small model, signed with one key."""

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.export.bundle import write_bundle
from qmu_edge.receipt.envelope import sign
from qmu_edge.verify.manifest import RECEIPT, Manifest
from qmu_edge.verify.verdict import Thresholds

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIMITS = Thresholds(max_residual=0.3, max_ta_drop=0.04, max_ra_drop=None)
MODEL = "model.onnx"


def receipt_about(model: bytes, key: Ed25519PrivateKey = KEY) -> bytes:
    """As much of a receipt as a device reads."""
    subject = {"name": MODEL, "digest": {"sha256": hashlib.sha256(model).hexdigest()}}
    return sign(json.dumps({"subject": [subject]}).encode(), key)


def write(out: Path, model: Path, receipt: bytes | None = None) -> Manifest:
    """Write a bundle of one model file with a receipt about it, or with another receipt."""
    data = model.read_bytes()
    files = {MODEL: data, RECEIPT: receipt_about(data) if receipt is None else receipt}
    return write_bundle(out, files, model=MODEL, thresholds=LIMITS, min_agreement=0.999, key=KEY)
