"""DSSE: a payload and an Ed25519 signature over it, in one JSON object that needs nothing else.

Contract. `sign` writes one byte string for one payload and key, and `read` takes exactly that form, so
that no byte of an envelope can change unnoticed. The signature covers the payload and its type, as DSSE
says (PAE). `keyid` is the public key itself: whoever has the envelope can verify the signature, and learns
which key made it. It does not tell whose key that is; compare it with a key from a source you trust.

Standard library only, so that a device can read it; signatures need the `cryptography` package, which is
imported where it is used.

Source: https://github.com/secure-systems-lab/dsse, protocol.md (v1).
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import read_regular
from qmu_edge.io.json import compact, parse_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_KEY_FILE: Final = 4096


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds; worth nothing until `verify` has passed.

    Attributes:
        payload: The signed bytes.
        public_key: 32 bytes.
        signature: 64 bytes.
    """

    payload: bytes
    public_key: bytes
    signature: bytes


def key_name(public_key: bytes) -> str:
    """What a public key is called: the start of its SHA-256.

    >>> key_name(bytes(32))
    '66687aadf862bd77'
    """
    return sha256_of(public_key)[:16]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: lengths make it impossible to move bytes from one part to the other.

    >>> pae("http://example.com/HelloWorld", b"hello world")  # the example of the specification
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: "Ed25519PrivateKey") -> bytes:
    """The envelope of a payload; the same again for the same key."""
    public = key.public_key().public_bytes_raw()
    return _encoded(payload, public, key.sign(pae(PAYLOAD_TYPE, payload)))


def read(data: bytes, source: object) -> Envelope:
    """Take an envelope apart; `verify` must follow.

    Args:
        data: At most 1 MiB.
        source: Where it comes from, for messages.

    Raises:
        LedgerError: It is not what `sign` writes.
    """
    document = parse_object(data, f"{source}: not a signed envelope", LedgerError)
    try:
        (mark,) = document["signatures"]
        envelope = Envelope(
            from_base64(document["payload"]), bytes.fromhex(mark["keyid"]), from_base64(mark["sig"])
        )
    except (KeyError, TypeError, ValueError):
        raise LedgerError(
            f"{source}: not a signed envelope: allowed is a DSSE object with one payload and one signature"
        ) from None
    if _encoded(envelope.payload, envelope.public_key, envelope.signature) != data:
        raise LedgerError(
            f"{source}: not a signed envelope of type {PAYLOAD_TYPE} in its one form: "
            "a field, a space or the order differs"
        )
    return envelope


def verify(envelope: Envelope, source: object) -> None:
    """Verify the signature with the key in the envelope.

    Raises:
        LedgerError: The signature does not hold.
        ModuleNotFoundError: The `cryptography` package is missing.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(envelope.public_key)
        public.verify(envelope.signature, pae(PAYLOAD_TYPE, envelope.payload))
    except (ValueError, InvalidSignature):
        name = key_name(envelope.public_key)
        raise LedgerError(f"{source}: the signature does not hold for key {name}") from None


def read_public_key(path: Path) -> bytes:
    """An Ed25519 public key from a file: PEM, 64 hex digits, or the 32 bytes themselves.

    Raises:
        ConfigError: The file cannot be read, or holds no such key.
        ModuleNotFoundError: It is PEM, and the `cryptography` package is missing.
    """
    data = read_regular(path, limit=MAX_KEY_FILE, error=ConfigError)
    if data.startswith(b"-----BEGIN PUBLIC KEY-----"):
        return _from_pem(data, path)
    try:
        found = data if len(data) == 32 else bytes.fromhex(data.decode("ascii"))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError(f"{path}: not an Ed25519 public key; allowed are PEM, hex or 32 bytes")
    return found


def to_pem(public_key: bytes) -> str:
    """A public key as PEM, which other tools read.

    >>> print(to_pem(bytes(32)).splitlines()[1])
    MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PublicKey.from_public_bytes(public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _from_pem(data: bytes, path: Path) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: a public key of another kind; allowed is Ed25519")
    return key.public_bytes_raw()


def _encoded(payload: bytes, public_key: bytes, signature: bytes) -> bytes:
    document = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": public_key.hex(), "sig": base64.b64encode(signature).decode()}],
    }
    return compact(document)  # which is RFC 8785 form too, for an object of ASCII text alone


def from_base64(text: str) -> bytes:
    """The bytes of a base64 text; ValueError where it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
