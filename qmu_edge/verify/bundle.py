"""A bundle as it arrives on a device: files, signature and receipt are verified before any is used.

A bundle is hostile until its digests are verified, and its manifest until the signature is. Allowed are plain
names, regular files only, nothing that the manifest does not list, bounded sizes; of an archive see
`qmu_edge.verify.archive`. Each file is read once, and what was verified stays in memory: who swaps a file
afterwards changes nothing. A receipt must be signed and speak of the model. Signatures need the
`cryptography` package; where that is missing the result says so. A key that came in the bundle shows that
nothing changed since it was signed, not who signed.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import cannot_read, lies_in, open_regular
from qmu_edge.receipt import envelope
from qmu_edge.verify.archive import Archive
from qmu_edge.verify.arrays import read_npy
from qmu_edge.verify.coverage import NOT_CHECKED, Coverage, coverage
from qmu_edge.verify.manifest import (
    GOLDEN,
    MANIFEST,
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_MANIFEST,
    PUBLIC_KEY,
    RECEIPT,
    SIGNATURE,
    FileEntry,
    Manifest,
)
from qmu_edge.verify.onnx.reader import OnnxFile, parse_file

MAX_GOLDEN: Final = 2**26
_MAX_KEY: Final = 2**10
_LIMITS: Final = {RECEIPT: MAX_MANIFEST, PUBLIC_KEY: _MAX_KEY, **dict.fromkeys(GOLDEN, MAX_GOLDEN)}
Read = Callable[[str, int], bytes]  # of a file's name, so many of its first bytes at most


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        path: Where it came from.
        manifest: What its files are.
        content: Of the files that a device reads, by name: models, golden inputs, receipt and key. Of all
            files, the manifest and the signature too, where the whole bundle was asked for.
        signature: What is known about the signature, for people.
        vouched_by: Name of the trusted key that has signed it; None where no key was said to be trusted.
        signer: The public key whose signature holds, whoever's it is; None where none was checked.
        receipt: Whether a receipt covers its model files.
    """

    path: Path
    manifest: Manifest
    content: Mapping[str, bytes] = field(repr=False)
    signature: str
    vouched_by: str | None
    signer: bytes | None
    receipt: Coverage

    def network(self, name: str) -> OnnxFile:
        """A model file: exactly the bytes whose digest was compared.

        Raises:
            IntegrityError: See `parse_file`.
            ExportError: See `parse_file`.
        """
        return parse_file(self.content[name], self.path / name)

    @property
    def model(self) -> OnnxFile:
        """The file that the golden inputs belong to, see `network`."""
        return self.network(self.manifest.model)


def read_bundle(path: Path, key: Path | None = None, *, whole: bool = False) -> Bundle:
    """Verify a folder or an archive; nothing of it is needed afterwards.

    Args:
        path: Of the bundle.
        key: File of a public key that is trusted (see `read_public_key`); without it the bundle's own counts.
        whole: Whether to keep the content of all files, to pass the bundle on.

    Raises:
        ConfigError: Nothing is there, or it cannot be read. Or the key came with it.
        IntegrityError: It is not what its manifest says, or is not signed by the key.
        LedgerError: Its receipt does not hold, or is not about its model.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such bundle")
    try:
        if path.is_dir():
            if key is not None and lies_in(key, path):
                raise _came_with_it(key)
            return _verified(
                _names_in(path), lambda name, limit: _first(path / name, limit), path, key, whole
            )
        if not path.is_file():
            raise IntegrityError(f"{path}: not a regular file")
        with open_regular(path) as file:
            archive = Archive(file, path)
            return _verified(archive.names, archive.read, path, key, whole)
    except OSError as error:
        raise cannot_read(Path(error.filename or path), error) from None


def _came_with_it(key: Path) -> ConfigError:
    return ConfigError(
        f"{key}: came with the bundle, and whoever made the one made the other: it vouches for nothing; "
        "allowed is a key that you have from elsewhere, or no --key"
    )


def _lies_beside(key: Path, manifest: bytes) -> bool:
    """Whether a key lies in an unpacked copy of the bundle; a copy of the key elsewhere cannot be told."""
    try:
        return _first(key.resolve().parent / MANIFEST, MAX_MANIFEST + 1) == manifest
    except OSError:
        return False


def _first(path: Path, limit: int) -> bytes:
    with open_regular(path, links=False) as file:
        return file.read(limit)


def is_bundle(path: Path) -> bool:
    """Whether a path is meant as a bundle: a folder, or an archive, in whatever way it was packed."""
    return path.is_dir() or ".tar" in path.suffixes or path.suffix in (".tgz", ".zip")


def golden(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Golden inputs, uint8 (n, c, h, w), and the logits to expect, float32 (n, k).

    Raises:
        IntegrityError: They are no such arrays.
    """
    images, logits = (read_npy(bundle.content[name], bundle.path / name) for name in GOLDEN)
    kinds = [(a.dtype.name, a.ndim) for a in (images, logits)]
    if kinds != [("uint8", 4), ("float32", 2)] or len(images) != len(logits):
        raise IntegrityError(f"golden inputs: {kinds}, allowed as many uint8 images as float32 logits")
    return images, logits


def _verified(present: Collection[str], read: Read, path: Path, key: Path | None, whole: bool) -> Bundle:
    if MANIFEST not in present:
        raise IntegrityError(f"{path}: no {MANIFEST}; this is not a bundle")
    data = read(MANIFEST, MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        raise IntegrityError(f"{path}: {MANIFEST}: larger than the allowed {MAX_MANIFEST} bytes")
    if key is not None and _lies_beside(key, data):
        raise _came_with_it(key)
    manifest = Manifest.parse(data, path)
    mark = read(SIGNATURE, _MAX_KEY) if SIGNATURE in present else None
    expected = {*manifest.files, MANIFEST} | ({SIGNATURE} & {*present})
    for name in sorted(expected ^ {*present}):
        word = "missing" if name in expected else "not in the manifest"
        raise IntegrityError(f"{path}: {name}: {word}")
    _require_bounded(manifest, path, whole)
    content = {MANIFEST: data, **({} if mark is None else {SIGNATURE: mark})} if whole else {}
    for name, entry in manifest.files.items():
        found = _content(read, name, entry, f"{path}: {name}")
        if whole or _is_read(name, manifest):
            content[name] = found
    signer, signature = _signer(mark, content.get(PUBLIC_KEY, b""), data, path, key)
    covering = coverage(content.get(RECEIPT), manifest, path, signer)
    vouched_by = envelope.key_name(signer) if key is not None and signer is not None else None
    return Bundle(path, manifest, content, signature, vouched_by, signer, covering)


def _is_read(name: str, manifest: Manifest) -> bool:
    """Whether a device reads a file; of the others it compares digests only."""
    return name.endswith(".onnx") or name == manifest.model or name in _LIMITS


def _require_bounded(manifest: Manifest, path: Path, whole: bool) -> None:
    """Before anything of it is read: what stays in memory is no more than one file may have."""
    kept = {name: entry.bytes for name, entry in manifest.files.items() if whole or _is_read(name, manifest)}
    for name in kept.keys() & _LIMITS.keys():
        if kept[name] > _LIMITS[name]:
            raise IntegrityError(f"{path}: {name}: {kept[name]} bytes, allowed {_LIMITS[name]}")
    if sum(kept.values()) > MAX_BYTES:
        raise IntegrityError(
            f"{path}: {sum(kept.values())} bytes of files that are kept, allowed {MAX_BYTES}"
        )


def _names_in(path: Path) -> set[str]:
    """Names of the files in a folder; anything but a few regular files is refused."""
    with os.scandir(path) as entries:
        present = {entry.name: entry for entry in islice(entries, MAX_ENTRIES + 1)}
    if len(present) > MAX_ENTRIES:
        raise IntegrityError(f"{path}: more than {MAX_ENTRIES} files")
    for name, entry in present.items():
        if not entry.is_file(follow_symlinks=False):
            raise IntegrityError(f"{path}: {name}: not a regular file")
    return set(present)


def _content(read: Read, name: str, entry: FileEntry, what: str) -> bytes:
    """The content of a file, which is what the manifest says."""
    data = read(name, entry.bytes + 1)
    if len(data) != entry.bytes:
        found = f"{len(data)} bytes" if len(data) < entry.bytes else "more bytes"
        raise IntegrityError(f"{what}: {found}, the manifest says {entry.bytes}")
    if (digest := sha256_of(data)) != entry.sha256:
        raise IntegrityError(f"{what}: SHA-256 {digest[:16]}..., the manifest says {entry.sha256[:16]}...")
    return data


def _signer(
    mark: bytes | None, own: bytes, data: bytes, path: Path, key: Path | None
) -> tuple[bytes | None, str]:
    """Whose signature holds (None where none was checked), and what is known about it.

    A wrong one is an error, also where none is asked for.

    Args:
        mark: Content of the signature's file; None where there is none.
        own: Content of the bundle's own key.
        data: What is signed.
        path: Of the bundle.
        key: Of the trusted key; None for the bundle's own.
    """
    if mark is None:
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
    trusted = None if key is None else envelope.read_public_key(key)
    try:
        public = _hex(own, 32) if trusted is None else trusted
        Ed25519PublicKey.from_public_bytes(public).verify(_hex(mark, 64), data)
    except (ValueError, InvalidSignature):
        raise IntegrityError(f"{path}: {MANIFEST} is not signed by {key or PUBLIC_KEY}") from None
    return public, f"valid, key {envelope.key_name(public)}" + (
        "" if key else " (which came with the bundle)"
    )


def _hex(text: bytes, size: int) -> bytes:
    """So many bytes from lower-case digits and a newline: a second spelling would be a second signature."""
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * size), text):
        raise ValueError(f"allowed are {2 * size} lower-case hex digits and a newline")
    return bytes.fromhex(text.decode("ascii"))
