"""A bundle: what goes to a device, with everything that the device needs to check it by itself.

A folder, and the same as one reproducible archive (same content, same bytes): model files, the receipt,
golden inputs with the logits to expect, thresholds, and a signed manifest with the SHA-256 of each file. The
reading side is `qmu_edge.verify.bundle`, which needs numpy and onnxruntime only.

Golden inputs are synthetic. A picture of a person, deleted or not, has no business on every device.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jaxtyping import UInt8

from qmu_edge import __version__
from qmu_edge.errors import ConfigError
from qmu_edge.io.files import write_atomic
from qmu_edge.receipt.envelope import key_name
from qmu_edge.verify.bundle import GOLDEN, MANIFEST, PUBLIC_KEY, SIGNATURE, TYPE
from qmu_edge.verify.session import OrtRunner

GOLDEN_INPUTS: Final = 64


def golden_images(n: int, channels: int, size: int) -> UInt8[np.ndarray, "n c h w"]:
    """Synthetic images: random patches of every coarseness, so that all layers have something to do."""
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
    thresholds: Mapping[str, float | None],
    min_agreement: float,
    key: Ed25519PrivateKey,
) -> dict[str, Any]:
    """Write the folder `out` and the archive `out`.tar beside it.

    Args:
        out: Must not exist.
        files: Model files and the receipt, by name.
        model: Which of them the golden inputs are run through.
        thresholds: Fractions; None where there is no limit.
        min_agreement: Share of golden inputs on which a device must name the same class.
        key: Signs the manifest.

    Returns:
        The manifest.

    Raises:
        ConfigError: `out` exists already, or cannot be written.
    """
    archive = out.with_name(f"{out.name}.tar")
    for path in (out, archive):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: exists already")
    public = key.public_key().public_bytes_raw()
    everything = {**files, PUBLIC_KEY: public.hex().encode() + b"\n"}
    partial = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        (partial / model).write_bytes(files[model])
        everything |= _golden(partial / model)
        manifest = {
            "type": TYPE,
            "tool": f"qmu-edge {__version__}",
            "model": model,
            "files": {n: {"sha256": _sha256(d), "bytes": len(d)} for n, d in sorted(everything.items())},
            "min_agreement": min_agreement,
            "thresholds": dict(thresholds),
            "key": key_name(public),
        }
        everything[MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
        everything[SIGNATURE] = key.sign(everything[MANIFEST]).hex().encode() + b"\n"
        for name, data in everything.items():
            write_atomic(partial / name, data)
        os.rename(partial, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_atomic(archive, _tar(everything))
    return manifest


def _golden(model: Path) -> dict[str, bytes]:
    runner = OrtRunner(model)
    _, channels, size, _ = runner.input_shape
    images = golden_images(GOLDEN_INPUTS, channels, size)
    return {name: _npy(a) for name, a in zip(GOLDEN, (images, runner.logits(images)), strict=True)}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)  # no time, no owner
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
