"""`model.sig`: one form, every file, nothing else; checked as others do, with nothing of this project."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from qmu_edge.attestation import signature
from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.receipt import p256
from tests.receipt.test_receipt import KEY, OTHER

FILES = {name: sha256_of(name.encode()) for name in ("model.onnx", "README.md", "receipt.json")}
SIGNED = signature.sign(FILES, ["SHA256SUMS"], p256.beside(KEY))
PUBLIC = p256.public_half(p256.beside(KEY))


def verify_elsewhere(folder: Path, pem: bytes) -> None:
    """What a verifier of the OpenSSF format does, from its specification, with `cryptography` alone."""
    bundle = json.loads((folder / "model.sig").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == hashlib.sha256(pem).hexdigest()
    envelope = bundle["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
    key = load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey) and kind == "application/vnd.in-toto+json"
    (mark,) = envelope["signatures"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key.verify(base64.b64decode(mark["sig"], validate=True), signed, ec.ECDSA(SHA256()))
    statement = json.loads(payload)
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    predicate = statement["predicate"]
    ignored = predicate["serialization"]["ignore_paths"]
    listed = {item["name"]: item["digest"] for item in predicate["resources"]}
    together = hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in predicate["resources"]))
    (subject,) = statement["subject"]
    assert subject["digest"] == {"sha256": together.hexdigest()}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name not in ignored
    }
    if found != listed:
        raise ValueError(f"differ: {sorted(found.items() ^ listed.items())}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text(name)
    (tmp_path / "SHA256SUMS").write_text("lists the signature")
    (tmp_path / "model.sig").write_bytes(SIGNED)
    return tmp_path


def test_the_same_files_and_key_make_the_same_bytes_and_they_are_read_back() -> None:
    assert signature.sign(dict(reversed(FILES.items())), ["SHA256SUMS"], p256.beside(KEY)) == SIGNED
    found = signature.read(SIGNED, "model.sig")
    assert (found.files, found.ignored) == (FILES, ["SHA256SUMS", "model.sig"])
    assert found.hint == p256.hint(PUBLIC) and signature.verify(found, PUBLIC)
    assert not signature.verify(found, p256.public_half(p256.beside(OTHER)))


def test_others_verify_it(folder: Path) -> None:
    verify_elsewhere(folder, p256.to_pem(PUBLIC).encode())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_a_changed_a_removed_and_an_added_file_are_told(folder: Path, damage: str, name: str) -> None:
    path = folder / (name if damage != "added" else f"new-{name}")
    path.unlink(missing_ok=True)
    if damage != "removed":
        path.write_text(f"another {name}")
    with pytest.raises(ValueError, match="differ"):
        verify_elsewhere(folder, p256.to_pem(PUBLIC).encode())
    found = {p.name: sha256_of(p.read_bytes()) for p in folder.iterdir()}
    (line,) = signature.differences(signature.read(SIGNED, "model.sig"), found)
    said = {"changed": "SHA-256 is", "removed": "missing", "added": "not signed"}[damage]
    assert line.startswith(f"{path.name}: ") and said in line


def test_a_foreign_key_does_not_verify(folder: Path) -> None:
    foreign = signature.sign(FILES, ["SHA256SUMS"], p256.beside(OTHER))
    document = json.loads(foreign)
    document["verificationMaterial"]["publicKey"]["hint"] = p256.hint(PUBLIC)  # which it claims to be
    forged = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    (folder / "model.sig").write_bytes(forged)
    with pytest.raises(InvalidSignature):
        verify_elsewhere(folder, p256.to_pem(PUBLIC).encode())
    assert not signature.verify(signature.read(forged, "model.sig"), PUBLIC)


def test_no_byte_can_change_unnoticed() -> None:
    for at in range(0, len(SIGNED), 7):
        data = bytearray(SIGNED)
        data[at] ^= 1
        try:
            found = signature.read(bytes(data), "model.sig")
        except LedgerError as error:
            assert str(error).startswith("model.sig: not a model signature of this program")
        else:
            assert not (signature.verify(found, PUBLIC) and found.hint == p256.hint(PUBLIC)), at


def edited(**changes: Any) -> bytes:
    document = json.loads(SIGNED)
    return json.dumps({**document, **changes}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", SIGNED + b"\n", SIGNED.replace(b":", b": ", 1), edited(extra=1),
        edited(dsseEnvelope=[]),
        edited(verificationMaterial={"publicKey": None}), edited(dsseEnvelope={"signatures": [1, 2]}),
        edited(dsseEnvelope={"payload": 7, "signatures": [{"sig": "", "keyid": ""}]}),
        signature.sign({"../up": Sha256("ab" * 32)}, [], p256.beside(KEY)),
    ],
)  # fmt: skip
def test_another_form_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(LedgerError, match=r"model\.sig: not a model signature") as caught:
        signature.read(data, "model.sig")
    assert "\n" not in str(caught.value)
