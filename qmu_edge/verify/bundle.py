"""A bundle as it arrives on a device: files, signature and receipt are verified before any is used.

A bundle is hostile until its digests are verified, and its manifest until the signature is. Allowed are plain
names, regular files only, nothing that the manifest does not list, bounded sizes; of an archive see
`qmu_edge.verify.archive`. A receipt must be signed and speak of the model. Signatures need the
`cryptography` package; where that is missing the result says so. A key that came in the bundle shows that
nothing changed since it was signed, not who signed.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.files import read_regular
from qmu_edge.receipt import envelope
from qmu_edge.verify.archive import unpack
from qmu_edge.verify.arrays import read_npy
from qmu_edge.verify.coverage import NOT_CHECKED, Coverage, coverage
from qmu_edge.verify.manifest import (
    GOLDEN,
    MANIFEST,
    MAX_ENTRIES,
    MAX_MANIFEST,
    PUBLIC_KEY,
    SIGNATURE,
    FileEntry,
    Manifest,
)

MAX_GOLDEN: Final = 2**26
_MAX_KEY: Final = 2**10


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        folder: Where they are.
        manifest: What they are.
        signature: What is known about the signature, for people.
        vouched_by: Name of the trusted key that has signed it; None where no key was said to be trusted.
        signer: The public key whose signature holds, whoever's it is; None where none was checked.
        receipt: Whether a receipt covers its model files.
    """

    folder: Path
    manifest: Manifest
    signature: str
    vouched_by: str | None
    signer: bytes | None
    receipt: Coverage

    @property
    def model(self) -> Path:
        """The file that the golden inputs belong to."""
        return self.folder / self.manifest.model


@contextmanager
def opened(path: Path, key: Path | None = None) -> Iterator[Bundle]:
    """Verify a folder or an archive, and give access to its files while the context lasts.

    Args:
        path: Of the bundle.
        key: File of a public key that is trusted (see `read_public_key`); without it the bundle's own counts.

    Raises:
        ConfigError: Nothing is there.
        IntegrityError: It is not what its manifest says, or is not signed by the key.
        LedgerError: Its receipt does not hold, or is not about its model.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such bundle")
    if path.is_dir():
        yield _verified(path, path, key)
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, Path(folder))
        yield _verified(Path(folder), path, key)


def is_bundle(path: Path) -> bool:
    """Whether a path is meant as a bundle: a folder, or an archive, in whatever way it was packed."""
    return path.is_dir() or ".tar" in path.suffixes or path.suffix in (".tgz", ".zip")


def golden(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Golden inputs, uint8 (n, c, h, w), and the logits to expect, float32 (n, k).

    Args:
        folder: Of an opened bundle.

    Raises:
        IntegrityError: They are no such arrays.
    """
    images, logits = (read_npy(folder / name, max_bytes=MAX_GOLDEN) for name in GOLDEN)
    kinds = [(a.dtype.name, a.ndim) for a in (images, logits)]
    if kinds != [("uint8", 4), ("float32", 2)] or len(images) != len(logits):
        raise IntegrityError(f"golden inputs: {kinds}, allowed as many uint8 images as float32 logits")
    return images, logits


def _verified(folder: Path, path: Path, key: Path | None) -> Bundle:
    present = _names_in(folder, path)
    if MANIFEST not in present:
        raise IntegrityError(f"{path}: no {MANIFEST}; this is not a bundle")
    data = read_regular(folder / MANIFEST, limit=MAX_MANIFEST, error=IntegrityError)
    manifest = Manifest.parse(data, path)
    expected = {*manifest.files, MANIFEST} | ({SIGNATURE} & present)
    for name in sorted(expected ^ present):
        word = "missing" if name in expected else "not in the manifest"
        raise IntegrityError(f"{path}: {name}: {word}")
    for name, entry in manifest.files.items():
        _require_file(folder / name, entry, f"{path}: {name}")
    signer, signature = _signer(folder, data, path, key)
    found = coverage(folder, manifest, path, signer)
    vouched_by = envelope.key_name(signer) if key is not None and signer is not None else None
    return Bundle(folder, manifest, signature, vouched_by, signer, found)


def _names_in(folder: Path, path: Path) -> set[str]:
    """Names of the files in a folder; anything but a few regular files is refused."""
    with os.scandir(folder) as entries:
        present = {entry.name: entry for entry in islice(entries, MAX_ENTRIES + 1)}
    if len(present) > MAX_ENTRIES:
        raise IntegrityError(f"{path}: more than {MAX_ENTRIES} files")
    for name, entry in present.items():
        if not entry.is_file(follow_symlinks=False):
            raise IntegrityError(f"{path}: {name}: not a regular file")
    return set(present)


def _require_file(path: Path, entry: FileEntry, what: str) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.bytes:
        raise IntegrityError(f"{what}: {status.st_size} bytes, the manifest says {entry.bytes}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise IntegrityError(f"{what}: SHA-256 {digest[:16]}..., the manifest says {entry.sha256[:16]}...")


def _signer(folder: Path, data: bytes, path: Path, key: Path | None) -> tuple[bytes | None, str]:
    """Whose signature holds (None where none was checked), and what is known about it.

    A wrong one is an error, also where none is asked for.
    """
    if not (folder / SIGNATURE).exists():
        if key is not None:
            raise IntegrityError(f"{path}: not signed")
        return None, "not signed"
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError:
        if key is not None:
            raise ConfigError('--key needs cryptography, the extra "signature" of qmu-edge') from None
        return None, NOT_CHECKED
    if key is not None:
        public = envelope.read_public_key(key)
    try:
        if key is None:
            public = _hex(folder / PUBLIC_KEY, 32)
        signature = _hex(folder / SIGNATURE, 64)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (IntegrityError, ValueError, InvalidSignature):
        raise IntegrityError(f"{path}: {MANIFEST} is not signed by {key or PUBLIC_KEY}") from None
    return public, f"valid, key {envelope.key_name(public)}" + (
        "" if key else " (which came with the bundle)"
    )


def _hex(path: Path, size: int) -> bytes:
    """So many bytes from lower-case digits and a newline: a second spelling would be a second signature."""
    text = read_regular(path, limit=_MAX_KEY, error=IntegrityError)
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * size), text):
        raise IntegrityError(f"{path}: allowed are {2 * size} lower-case hex digits and a newline")
    return bytes.fromhex(text.decode("ascii"))
