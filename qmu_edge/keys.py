"""The project's Ed25519 key: what it signs, others can check without asking anybody.

The private key lies in the project's folder, readable by its owner only, made at first use. A public
key is 32 bytes; its name is the start of its SHA-256.
"""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.errors import IntegrityError
from qmu_edge.store import write_atomic


def key_name(public: bytes) -> str:
    """What a public key is called.

    >>> key_name(bytes(32))
    '66687aadf862bd77'
    """
    return hashlib.sha256(public).hexdigest()[:16]


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key of a project's folder; made when there is none.

    Raises:
        IntegrityError: The file is there and holds no key.
    """
    path = folder / "signing.key"
    if not path.exists():
        write_atomic(path, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode(), mode=0o600)
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text("ascii")))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: not a signing key: {error}") from None
