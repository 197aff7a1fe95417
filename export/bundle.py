"""A bundle: the files for a device, with everything that the device needs to verify them offline.

A bundle is a folder, and a reproducible archive of it (same content, same bytes): model files, the receipt,
golden inputs with the logits to expect, thresholds, a model signature for other tools, and a signed manifest
with the SHA-256 of each file. Its files are specified in `qmu_edge.verify.manifest`, and read by
`qmu_edge.verify.bundle`, which needs numpy and onnxruntime only.

Golden inputs are synthetic, so that no image of a person is distributed to devices.
"""

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jaxtyping import UInt8

from qmu_edge import __version__
from qmu_edge.attestation import signature
from qmu_edge.attestation.signature import MODEL_SIGNATURE
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.files import UNFINISHED, make_folder, sync_folder, write_atomic
from qmu_edge.receipt import p256
from qmu_edge.receipt.envelope import key_name
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, PUBLIC_KEY, SIGNATURE, FileEntry, Issued, Manifest
from qmu_edge.verify.onnx.reader import parse_file
from qmu_edge.verify.session import OrtRunner, oldest_onnxruntime
from qmu_edge.verify.verdict import Thresholds

GOLDEN_INPUTS: Final = 64


def golden_images(n: int, channels: int, size: int) -> UInt8[np.ndarray, "n c h w"]:
    """Synthetic images, the same at every call: random patches of 1, 2, 4 and 8 pixels in turn.

    Noise of single pixels alone would leave most activations at zero.
    """
    rng = np.random.default_rng(0)
    images = np.empty((n, channels, size, size), np.uint8)
    for number in range(n):
        cell = 1 << number % 4
        coarse = rng.integers(0, 256, (channels, -(-size // cell), -(-size // cell)), np.uint8)
        images[number] = coarse.repeat(cell, 1).repeat(cell, 2)[:, :size, :size]
    return images


def write_bundle(
    out: Path,
    files: Mapping[str, bytes],
    *,
    model: str,
    thresholds: Thresholds,
    min_agreement: float,
    issued: Issued,
    key: Ed25519PrivateKey,
) -> Manifest:
    """Write the folder `out` and the archive `out`.tar beside it; what a killed run has left is completed.

    Args:
        out: Must not exist, or hold this very bundle.
        files: Model files and the receipt, by name.
        model: Name of the model file that golden logits are computed with.
        thresholds: Thresholds of the verdict on the device.
        min_agreement: Share of golden inputs on which a device must name the same class.
        issued: Where in its project's history the bundle stands.
        key: Signs the manifest; the P-256 key beside it signs the files for other tools.

    Raises:
        ConfigError: `out` or its archive exists already and is something else, or cannot be written.
    """
    public = key.public_key().public_bytes_raw()
    golden, oldest = _tried(files, model)
    listed = {**files, PUBLIC_KEY: _hex(public), **golden}
    digests = {name: sha256_of(data) for name, data in listed.items()}
    listed[MODEL_SIGNATURE] = signature.sign(digests, [MANIFEST, SIGNATURE], p256.beside(key))
    manifest = Manifest(
        tool=f"qmu-edge {__version__}",
        model=model,
        files={name: FileEntry(sha256_of(data), len(data)) for name, data in sorted(listed.items())},
        min_agreement=min_agreement,
        thresholds=asdict(thresholds),
        key=key_name(public),
        issued=issued,
        onnxruntime=oldest,
    )
    signed = manifest.to_bytes()
    _write(out, {**listed, MANIFEST: signed, SIGNATURE: _hex(key.sign(signed))})
    return manifest


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Folder and archive, each whole or not at all; what is there is compared before anything is written."""
    archive, data = out.with_name(f"{out.name}.tar"), _tar(files)
    missing = [path for path in (out, archive) if not path.exists() and not path.is_symlink()]
    held = {out: files, archive: data}
    for path in held.keys() - set(missing):
        if _content(path) != held[path]:
            raise ConfigError(f"{path}: exists already, and is not this bundle")
    partial = out.with_name(f"{UNFINISHED}{out.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        if out in missing:
            make_folder(out.parent, 0o755)
            partial.mkdir(mode=0o755)
            for name, content in files.items():
                write_atomic(partial / name, content)
            os.rename(partial, out)
            sync_folder(out.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if archive in missing:
        write_atomic(archive, data)


def _content(path: Path) -> bytes | dict[str, bytes] | None:
    """Files of a folder by name, or the bytes of a file; None for whatever else."""
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        return None
    if path.is_file():
        return path.read_bytes()
    plain = all(entry.is_file() and not entry.is_symlink() for entry in path.iterdir())
    return {entry.name: entry.read_bytes() for entry in path.iterdir()} if plain else None


def _tried(files: Mapping[str, bytes], model: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Golden inputs and logits of the model as files by name, and the oldest onnxruntime of each file."""
    read = {n: parse_file(data, Path(n)) for n, data in sorted(files.items()) if n.endswith(".onnx")}
    oldest = {n: oldest_onnxruntime(file) for n, file in read.items() if not file.is_qonnx}
    runner = OrtRunner(read[model])
    _, channels, size, _ = runner.input_shape
    images = golden_images(GOLDEN_INPUTS, channels, size)
    arrays = zip(GOLDEN, (images, runner.logits(images)), strict=True)
    return {name: _npy(array) for name, array in arrays}, oldest


def _hex(data: bytes) -> bytes:
    return data.hex().encode() + b"\n"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive without times and owners, so that the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
