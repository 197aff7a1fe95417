"""Whether a receipt covers the model files of a bundle: it names them, or the network that they come from.

A receipt names the files that were measured. The same network exported with other options (another input,
another batch) makes other files: then the signer of the manifest says which checkpoint they come from, and
the receipt which checkpoint it is about. Where neither is so, a bundle shows nothing about deletions, and is
not taken for one that does. Before the first deletion there is nothing to cover.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qmu_edge.errors import LedgerError
from qmu_edge.io.json import parse_object
from qmu_edge.receipt import envelope
from qmu_edge.verify.manifest import RECEIPT, Manifest

RECEIPTS: Final = "urn:qmu-edge:erasure-receipt:v"  # and a number: all versions say the following alike
NOT_CHECKED: Final = 'not checked, for want of cryptography, the extra "signature" of qmu-edge'


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether a receipt covers all model files, and what is known about it, for people."""

    covered: bool
    text: str


def coverage(receipt: bytes | None, manifest: Manifest, path: Path, signer: bytes | None) -> Coverage:
    """What the receipt of a bundle says about its model files.

    Args:
        receipt: Its receipt; None where it has none.
        manifest: Of the bundle.
        path: Of the bundle, for messages.
        signer: The public key whose signature under the manifest holds; None where none was checked.

    Raises:
        LedgerError: The receipt does not hold, or is about another model.
    """
    if receipt is None:
        return _without(manifest)
    what = f"{path}: {RECEIPT}"
    signed = envelope.read(receipt, what)
    statement = parse_object(signed.payload, f"{what}: not a receipt", LedgerError)
    covered, about = _about(statement, manifest, what)
    try:
        envelope.verify(signed, what)
    except ModuleNotFoundError:
        return Coverage(covered, f"{about}; signature {NOT_CHECKED}")
    key = f"valid, key {envelope.key_name(signed.public_key)} ({_whose(signed.public_key, signer)})"
    return Coverage(covered, f"{about}; signature {key}")


def _without(manifest: Manifest) -> Coverage:
    if manifest.issued is None:
        return Coverage(False, "none, and a bundle of version 1 does not say whether there should be one")
    if manifest.issued.number:
        return Coverage(False, f"none, though {manifest.issued.number} were issued: none covers these files")
    return Coverage(True, "none: nothing was deleted so far")


def _about(statement: Mapping[str, Any], manifest: Manifest, what: str) -> tuple[bool, str]:
    """Whether a receipt covers every model file, and what it is about."""
    try:
        named = {subject["digest"]["sha256"] for subject in statement["subject"]}
        ours = statement["predicateType"].startswith(RECEIPTS)
        passed = statement["predicate"]["verdict"]["passed"] is True
    except (KeyError, TypeError, AttributeError):
        raise LedgerError(f"{what}: not a receipt") from None
    if not (ours and passed):
        raise LedgerError(f"{what}: not a receipt of a file that has passed")
    model = manifest.model
    models = [name for name in manifest.files if name.endswith(".onnx") or name == model]
    others = [name for name in sorted(models) if manifest.files[name].sha256 not in named]
    if not others:
        return True, f"about {model}"
    if manifest.issued is not None and _checkpoint(statement) == manifest.issued.checkpoint:
        return True, f"about the network that {', '.join(others)} comes from, as the manifest says"
    if model in others:
        raise LedgerError(f"{what}: is not about {model}, SHA-256 {manifest.files[model].sha256}")
    return False, f"about {model}, and not about {', '.join(others)}"


def _checkpoint(statement: Mapping[str, Any]) -> object:
    """Digest of the network that a receipt is about; None where it says none."""
    try:
        return statement["predicate"]["checkpoints"]["after"]
    except (KeyError, TypeError):
        return None


def _whose(key: bytes, signer: bytes | None) -> str:
    if signer is None:
        return "nobody has signed the bundle, so nobody vouches for this key"
    return "the bundle's" if key == signer else "another than the bundle's, which vouches for it"
