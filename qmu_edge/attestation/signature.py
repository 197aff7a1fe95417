"""`model.sig`: a model signature of the OpenSSF, over the files of a folder.

A Sigstore bundle around a DSSE envelope around an in-toto statement that names every file with its SHA-256.
Public tools verify it (`model_signing verify key`) and know nothing of this project: a changed, a removed and
an added file fail there. What lists this signature cannot be signed by it: the signature itself, and the
lists of files that name it, are the `ignored` paths that the statement tells every verifier.

Contract. `sign` writes one byte string for the same files and key; `read` takes exactly that form.

Sources: OpenSSF Model Signing 1.0 (predicate `https://model_signing/signature/v1.0`); Sigstore bundle v0.3.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qmu_edge.errors import LedgerError
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import Sha256, is_sha256
from qmu_edge.io.json import compact, parse_object
from qmu_edge.io.names import is_file_name
from qmu_edge.receipt import p256
from qmu_edge.receipt.envelope import PAYLOAD_TYPE, from_base64, pae
from qmu_edge.receipt.statement import STATEMENT_TYPE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

MODEL_SIGNATURE: Final = "model.sig"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUBJECT: Final = "model"  # what verifiers show; a folder's name may be a person's


@dataclass(frozen=True, slots=True)
class Signed:
    """What a model signature holds; worth nothing until `verify` has passed.

    Attributes:
        files: SHA-256 by name.
        ignored: Names that it says nothing about.
        hint: Which key it is of, see `qmu_edge.receipt.p256.hint`.
        payload, signature: What is signed, and the DER signature.
    """

    files: Mapping[str, Sha256]
    ignored: Sequence[str]
    hint: Sha256
    payload: bytes
    signature: bytes


def sign(files: Mapping[str, Sha256], ignored: Sequence[str], key: "EllipticCurvePrivateKey") -> bytes:
    """The signature of a folder.

    Args:
        files: SHA-256 of each file by its name.
        ignored: Names of files that list the signature.
        key: See `qmu_edge.receipt.p256`.
    """
    payload = canonical(_statement(files, sorted({MODEL_SIGNATURE, *ignored})))
    mark = p256.sign(pae(PAYLOAD_TYPE, payload), key)
    return _encoded(payload, mark, p256.hint(p256.public_half(key)))


def read(data: bytes, source: object) -> Signed:
    """Take a model signature apart; `verify` must follow.

    Args:
        data: At most 1 MiB.
        source: Where it comes from, for messages.

    Raises:
        LedgerError: It is not what `sign` writes.
    """
    what = f"{source}: not a model signature of this program"
    document = parse_object(data, what, LedgerError)
    try:
        (mark,) = document["dsseEnvelope"]["signatures"]
        payload, signature = from_base64(document["dsseEnvelope"]["payload"]), from_base64(mark["sig"])
        hint = document["verificationMaterial"]["publicKey"]["hint"]
        statement = parse_object(payload, what, LedgerError)
        resources = statement["predicate"]["resources"]
        files = {item["name"]: item["digest"] for item in resources}
        ignored = statement["predicate"]["serialization"]["ignore_paths"]
        plain = all(is_file_name(name) for name in (*files, *ignored)) and all(map(is_sha256, files.values()))
        same = plain and is_sha256(hint) and canonical(_statement(files, ignored)) == payload
    except (KeyError, TypeError, ValueError):
        raise LedgerError(f"{what}: a field is missing or of another kind") from None
    if not same or len(files) < len(resources) or _encoded(payload, signature, hint) != data:
        raise LedgerError(f"{what}, or not in its one form: a field, a space or the order differs")
    return Signed(files, ignored, Sha256(hint), payload, signature)


def verify(signed: Signed, public: bytes) -> bool:
    """Whether this key (33 bytes) made the signature."""
    return p256.holds(signed.signature, pae(PAYLOAD_TYPE, signed.payload), public)


def differences(signed: Signed, found: Mapping[str, str]) -> Iterator[str]:
    """What the files of a folder are that they should not be, one line each.

    Args:
        signed: The signature.
        found: SHA-256 of everything that lies in the folder, by name.
    """
    there = {name: sha for name, sha in found.items() if name not in signed.ignored}
    for name in sorted(signed.files.keys() | there.keys()):
        if name not in there:
            yield f"{name}: missing, and signed in {MODEL_SIGNATURE}"
        elif name not in signed.files:
            yield f"{name}: not signed in {MODEL_SIGNATURE}"
        elif there[name] != signed.files[name]:
            yield f"{name}: SHA-256 is {there[name]}; signed in {MODEL_SIGNATURE}: {signed.files[name]}"


def _statement(files: Mapping[str, Sha256], ignored: Sequence[str]) -> dict[str, object]:
    names = sorted(files)
    together = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in names)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SUBJECT, "digest": {"sha256": together}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [*ignored],
            },
            "resources": [{"name": n, "algorithm": "sha256", "digest": files[n]} for n in names],
        },
    }  # fmt: skip


def _encoded(payload: bytes, signature: bytes, hint: str) -> bytes:
    marks = [{"sig": base64.b64encode(signature).decode(), "keyid": ""}]
    return compact(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE,
                "signatures": marks,
            },
        }
    )  # fmt: skip
