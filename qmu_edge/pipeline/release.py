"""From a checkpoint to files that ship, and what those files do under onnxruntime.

A release is a small JSON object: the digest of its checkpoint and of each exported file, parity and gate
reports. It is made once for a checkpoint. `evaluate_release` runs the exported file, never the network.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.errors import ConfigError
from qmu_edge.export.bundle import write_bundle
from qmu_edge.export.exporter import FILES, ExportPlan, export
from qmu_edge.io.files import write_atomic
from qmu_edge.pipeline.inputs import load_checkpoint
from qmu_edge.project.project import Project
from qmu_edge.verify.evaluation import to_json

RELEASED: Final = ("integer", "packed", "qonnx")  # what a release holds where nothing else is asked for


def make_release(
    project: Project, digest: str, formats: tuple[str, ...] = RELEASED, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Export a checkpoint, or find the release that was made of it before.

    Everything here runs on the CPU: that is where the file is compared with the network, and a GPU's
    shortened float32 products would be taken for a difference of the file.

    Args:
        project: Held by the caller.
        digest: Of the checkpoint.
        formats: Of the files.
        options: Other fields of `qmu_edge.export.exporter.ExportPlan`.

    Returns:
        Digest and content of the release object.

    Raises:
        ConfigError: The target does not take a format.
        ExportError: A gate does not pass; no release is made.
    """
    model, origin = load_checkpoint(project, digest)
    plan = ExportPlan(
        formats=formats, class_names=origin.class_names, recipe=project.recipe.digest(), **options
    )
    key = f"release:{digest}:{hashlib.sha256(repr(plan).encode()).hexdigest()}"
    known = project.ledger.meta(key)
    if known:
        return known, json.loads(project.store.get_bytes(known))
    policy = project.recipe.policy
    project.progress.start("export", 0)
    files = export(
        model, plan, images=parity_images(project), min_agreement=policy.min_agreement,
        min_inputs=policy.parity_inputs,
    )  # fmt: skip
    project.progress.finish(f"{len(files)} files")
    release = {
        "checkpoint": digest,
        "files": {FILES[f.format]: project.store.put_released(f.data) for f in files},
        "bytes": {FILES[f.format]: len(f.data) for f in files},
        "parity": {f.format: to_json(f.parity) for f in files},
        "levels": {f.format: to_json(f.levels) for f in files},
        "explained": {f.format: to_json(f.explained) for f in files},
        "gate": {f.format: to_json(f.gate) for f in files},
    }
    found = project.store.put_bytes(_canonical(release))
    project.ledger.set_meta(key, found)
    return found, release


def parity_images(project: Project) -> np.ndarray:
    """Images of the parity gate: never deleted ones; shifted copies where the dataset is small."""
    index, wanted = project.index, project.recipe.policy.parity_inputs
    kept = ~project.barred() & ~project.claimed()
    order = np.argsort(-index.splits, kind="stable")  # test images first
    alive = project.allowed(order[kept[order]][:wanted], "parity inputs")
    images = project.images[alive]
    shifts = [np.roll(images, s, axis=(2, 3)) for s in range(1, -(-wanted // max(1, len(alive))))]
    return np.concatenate([images, *shifts])[: max(wanted, len(alive))]


def copy_files(project: Project, release: Mapping[str, Any], out: Path) -> list[Path]:
    """Copy the files of a release into a folder of the user's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    paths = []
    for name, sha in release["files"].items():
        write_atomic(out / name, project.store.get_bytes(sha, limit=4 << 30))
        paths.append(out / name)
    return paths


def bundle_files(
    project: Project, release: Mapping[str, Any], out: Path, receipt: bytes | None
) -> list[Path]:
    """Write the files of a release as a bundle, with the receipt when there is one.

    Raises:
        ConfigError: No file of the release runs under onnxruntime, or `out` exists already.
    """
    model = next((name for name in release["files"] if name != FILES["qonnx"]), None)
    if model is None:
        raise ConfigError("a bundle needs a file that onnxruntime can run; add --format integer")
    files = {n: project.store.get_bytes(sha, limit=4 << 30) for n, sha in release["files"].items()}
    if receipt is not None:
        files["receipt.json"] = receipt
    policy = project.recipe.policy
    limits = {n: getattr(policy, n) for n in ("max_fa_gap", "max_ta_drop", "max_ra_drop", "max_mia_auc_gap")}
    manifest = write_bundle(
        out, files, model=model, key=project.signing_key, min_agreement=policy.min_agreement,
        thresholds={name: None if v == "off" else v for name, v in limits.items()},
    )  # fmt: skip
    return [out / name for name in manifest["files"]]


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
