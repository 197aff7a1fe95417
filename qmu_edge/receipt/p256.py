"""The P-256 key beside an Ed25519 key: tools for model signatures read ECDSA, and no Ed25519.

It is computed from the private half of the Ed25519 key (HKDF-SHA-256 under a name of its own), so it needs no
file: it is created, protected, rotated and lost together with that key. Neither key's signatures nor public
half tell anything about the other. Signatures are deterministic: the same again for the same bytes, so that
what a killed run has left is completed by the next one.

A public key is 33 bytes here, a compressed point; its name is the SHA-256 of its PEM form, which is what
signatures of the Sigstore kind call a hint.

Source: NIST FIPS 186-5, A.2.1 (a private key from extra random bits); RFC 5869 (HKDF); RFC 6979.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import read_regular
from qmu_edge.receipt.envelope import MAX_KEY_FILE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the curve's group
PURPOSE: Final = b"qmu-edge model signature, ECDSA P-256, version 1"
_EXTRA: Final = 16  # bytes beyond the order's 32, so that no scalar is likelier than another


def beside(key: "Ed25519PrivateKey") -> "EllipticCurvePrivateKey":
    """The P-256 key of an Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    wide = HKDF(SHA256(), length=32 + _EXTRA, salt=None, info=PURPOSE).derive(key.private_bytes_raw())
    return ec.derive_private_key(int.from_bytes(wide, "big") % (ORDER - 1) + 1, ec.SECP256R1())


def public_half(key: "EllipticCurvePrivateKey") -> bytes:
    """The public key, 33 bytes."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def sign(data: bytes, key: "EllipticCurvePrivateKey") -> bytes:
    """The signature, DER; the same again for the same bytes.

    Raises:
        ConfigError: The OpenSSL of this machine is older than 3.2.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        return key.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:
        raise ConfigError("model signatures need cryptography with OpenSSL 3.2 or newer") from None


def holds(signature: bytes, data: bytes, public: bytes) -> bool:
    """Whether this key (33 bytes) has signed these bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        _public_key(public).verify(signature, data, ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def read_public_key(path: Path) -> bytes | None:
    """A P-256 public key (33 bytes) from a PEM file; None where the file holds anything else.

    Raises:
        ConfigError: The file cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    data = read_regular(path, limit=MAX_KEY_FILE, error=ConfigError)
    try:
        key = load_pem_public_key(data) if data.startswith(b"-----BEGIN PUBLIC KEY-----") else None
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return None
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def to_pem(public: bytes) -> str:
    """A public key (33 bytes) as PEM, which other tools read."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def hint(public: bytes) -> Sha256:
    """What signatures call a public key (33 bytes)."""
    return sha256_of(to_pem(public).encode())


def _public_key(public: bytes) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
