"""SHA-256 digests as text: 64 lower-case hex digits, which name objects, samples, recipes and receipts.

`Sha256` is a str to the interpreter and a type of its own to the type checker. A text becomes one by `sha256`
where it comes from a file or a person, and by `sha256_of` where it is computed. Standard library only.
"""

import hashlib
import re
from typing import Final, NewType

from qmu_edge.errors import IntegrityError, QmuEdgeError

Sha256 = NewType("Sha256", str)  # of SHA-256, or of HMAC-SHA256 where the content could be guessed

PATTERN: Final = "[0-9a-f]{64}"  # how it is written
_FORM: Final = re.compile(PATTERN, re.ASCII)


def is_sha256(text: object) -> bool:
    """Whether this is how a digest is written.

    >>> is_sha256(64 * "a"), is_sha256(64 * "A"), is_sha256(63 * "a")
    (True, False, False)
    """
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def sha256(text: object, what: str = "digest", error: type[QmuEdgeError] = IntegrityError) -> Sha256:
    """A text that was read, as a digest; `what` is what a message calls it.

    Raises:
        QmuEdgeError: An `error`: it is not 64 lower-case hex digits.
    """
    if not isinstance(text, str) or not is_sha256(text):
        raise error(f"{what} {text!r} is not 64 lower-case hex digits")
    return Sha256(text)


def sha256_of(data: bytes) -> Sha256:
    """The digest of some bytes.

    >>> sha256_of(b"")[:8]
    'e3b0c442'
    """
    return Sha256(hashlib.sha256(data).hexdigest())


def salted(digest: Sha256, salt: str) -> Sha256:
    """A digest of what could be guessed: once the salt is gone it confirms no guess. Without a salt as it is.

    >>> salted(sha256_of(b""), "") == sha256_of(b""), salted(sha256_of(b""), "00ff") == sha256_of(b"")
    (True, False)
    """
    return sha256_of((digest + salt).encode()) if salt else digest
