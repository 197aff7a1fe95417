"""The manifest of a bundle: its model, the digest of every other file, and what a device must find.

A bundle is a folder, or the same as an archive, of plain files with plain names:

    manifest.json        this document
    manifest.sig         Ed25519 signature over its bytes, in hex
    signing.pub          the public key of that signature, 64 hex digits
    receipt.json         the receipt of the deletion, where there is one
    model.sig            and others that only other tools read, see `qmu_edge.attestation`; optional
    golden_images.npy    synthetic inputs, uint8 (n, c, h, w)
    golden_logits.npy    the logits that the model must give, float32 (n, k)
    *.onnx               the model files
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.json import parse_object
from qmu_edge.io.names import is_file_name
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.verdict import Thresholds

TYPE: Final = "urn:qmu-edge:bundle:v2"
TYPE_V1: Final = "urn:qmu-edge:bundle:v1"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
PUBLIC_KEY: Final = "signing.pub"
RECEIPT: Final = "receipt.json"
GOLDEN: Final = ("golden_images.npy", "golden_logits.npy")
MAX_FILES: Final = 64
MAX_ENTRIES: Final = MAX_FILES + 2  # and the manifest with its signature
MAX_BYTES: Final = 2**31 - 1  # of one file
MAX_MANIFEST: Final = 2**20
SINCE_V2: Final = frozenset({"issued", "onnxruntime"})
RETIRED: Final = frozenset({"max_fa_gap", "max_mia_auc_gap"})
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """SHA-256 and size in bytes of one file."""

    sha256: Sha256
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Where in its project's history a bundle stands.

    Attributes:
        number: How many receipts the project had issued: it only grows, and with every deletion.
        time: When the last of them was issued, RFC 3339; None where there is none.
        checkpoint: Digest of the network that the model files were exported from.
        receipt: Digest of the receipt in the bundle; None where none covers the files.
    """

    number: int
    time: str | None
    checkpoint: Sha256
    receipt: Sha256 | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        tool: Name and version of the exporter.
        model: Name of the file that the golden inputs belong to.
        files: Every file but the manifest and its signature, by name.
        min_agreement: Share of golden inputs on which a device must name the same class.
        thresholds: Some or all fields of `Thresholds`; None where there is no limit.
        key: Name of the signing key, see `qmu_edge.receipt.envelope.key_name`.
        issued: None in manifests of version 1, which do not say it.
        onnxruntime: The oldest version that each model file was tried on, by name; without those that
            onnxruntime does not run. None in manifests of version 1.
        type: Kind and version of this document.
    """

    tool: str
    model: str
    files: Mapping[str, FileEntry]
    min_agreement: float
    thresholds: Mapping[str, float | None]
    key: str
    issued: Issued | None = None
    onnxruntime: Mapping[str, str] | None = None
    type: str = TYPE

    @property
    def limits(self) -> dict[str, float | None]:
        """The thresholds that still mean something; bundles up to version 0.1 name others too."""
        return {name: value for name, value in self.thresholds.items() if name not in RETIRED}

    def to_bytes(self) -> bytes:
        """The file: the same bytes for the same manifest."""
        document = to_json(self)
        if self.type == TYPE_V1:
            document = {name: value for name, value in document.items() if name not in SINCE_V2}
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Manifest":
        """Read what `to_bytes` wrote.

        Args:
            data: The file.
            path: Of the bundle, for messages.

        Raises:
            IntegrityError: It is a manifest of no known version, or names what a bundle cannot hold.
        """
        what = f"{path}: {MANIFEST}"
        document = parse_object(data, what, IntegrityError)
        names = {field.name for field in fields(cls)}
        old = document.get("type") == TYPE_V1
        if set(document) != (names - SINCE_V2 if old else names) or document["type"] not in (TYPE, TYPE_V1):
            raise IntegrityError(f"{what}: not of type {TYPE} with fields {', '.join(sorted(names))}")
        manifest = from_json(cls, document, what)
        if problem := manifest._problem():
            raise IntegrityError(f"{what}: {problem}")
        return manifest

    def _problem(self) -> str:
        """What a bundle cannot hold; empty when it can hold all of it."""
        if len(self.files) > MAX_FILES:
            return f"{len(self.files)} files, allowed {MAX_FILES}"
        for name, entry in self.files.items():
            sound = 0 < entry.bytes <= MAX_BYTES and name not in (MANIFEST, SIGNATURE)
            if not sound or not is_file_name(name):
                return f"entry {name[:100]!r} is malformed"
        for name in (self.model, *GOLDEN):
            if name not in self.files:
                return f"{name[:100]!r} is not among its files"
        if problem := self._problem_of_history():
            return problem
        limits = {field.name for field in fields(Thresholds)} | RETIRED
        shares = [self.min_agreement, *(v for v in self.thresholds.values() if v is not None)]
        if not self.thresholds.keys() <= limits or not all(0 <= share <= 1 for share in shares):
            return "a threshold is unknown or no fraction"
        if self.thresholds.get("max_residual", 0) is None:
            return "max_residual is no fraction"
        return ""

    def _problem_of_history(self) -> str:
        """A number, a time and a receipt that contradict each other."""
        about = self.issued
        if about is None or self.onnxruntime is None:
            return "" if self.type == TYPE_V1 else "issued or onnxruntime is missing"
        if not self.onnxruntime.keys() <= self.files.keys():
            return f"onnxruntime names {', '.join(self.onnxruntime)[:100]!r}, not all among its files"
        if about.number < 0 or (about.time is None) != (about.number == 0):
            return f"number {about.number} with time {str(about.time)[:40]}"
        if about.time is not None and not TIME.fullmatch(about.time):
            return f"time {about.time[:40]!r}, allowed RFC 3339 in UTC"
        if (about.receipt is not None) != (RECEIPT in self.files) or (about.receipt and not about.number):
            return f"receipt {about.receipt} of number {about.number}, and {RECEIPT} beside it or not"
        if about.receipt is not None and self.files[RECEIPT].sha256 != about.receipt:
            return f"{RECEIPT} is not receipt {about.receipt}"
        return ""
