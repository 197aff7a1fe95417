"""From a checkpoint to files that ship, and what those files do under onnxruntime.

A release is a small JSON object: the digest of its checkpoint and of each exported file, parity and gate
reports. It is made once for a checkpoint. `evaluate_release` runs the exported file, never the network.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from qmu_edge import checkpoint
from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.bundle import write_bundle
from qmu_edge.data import Augment, ForgetRetain, Samples, on_device
from qmu_edge.errors import ConfigError
from qmu_edge.export import FILES, ExportPlan, export
from qmu_edge.models.layers import Classifier, Factory
from qmu_edge.models.own import factory_in
from qmu_edge.own_model import source_of
from qmu_edge.project import Project
from qmu_edge.split import Split, gone
from qmu_edge.store import write_atomic
from qmu_edge.verify.report import Evaluation, evaluate, evaluation_from_json, to_json
from qmu_edge.verify.runner import OrtRunner

RELEASED: Final = ("integer", "packed", "qonnx")  # what a release holds where nothing else is asked for
THREADS: Final = max(1, min(8, os.cpu_count() or 1))


def device_named(name: str) -> torch.device:
    """The device to compute on: "auto" takes the GPU when there is one.

    Raises:
        ConfigError: Another name, or "cuda" without a GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device cuda: this machine has no usable NVIDIA GPU; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def samples_of(project: Project, device: torch.device, positions: NDArray[np.int64], use: str) -> Samples:
    """Images of the dataset that nobody has asked to delete, on the device.

    Args:
        project: Open.
        device: Where batches go.
        positions: Which samples (m,).
        use: What for; errors say it.

    Raises:
        IntegrityError: A deleted sample is among them; see `Project.allowed`.
    """
    return _everything(project, device).take(torch.from_numpy(project.allowed(positions, use)))


def forget_retain(project: Project, split: Split, device: torch.device, state: Path) -> ForgetRetain:
    """The sets of a split on the device.

    Raises:
        IntegrityError: A deleted sample is retained, or used for tuning.
    """
    everything, recipe = _everything(project, device), project.recipe.data
    parts = {
        "forget": split.forget,
        "retain": project.allowed(split.retain, "retain set"),
        "validation": project.allowed(split.validation, "validation set"),
    }
    found = gone(project.index, split, project.barred())
    left = np.isin(np.arange(len(project.index.class_names)), project.index.labels[split.retain])
    return ForgetRetain(
        classes=() if found.others else found.classes, unretained=tuple(np.flatnonzero(~left).tolist()),
        **{name: everything.take(torch.from_numpy(part)) for name, part in parts.items()},
        augment=Augment(recipe.pad, recipe.flip), progress=project.progress, state=state,
    )  # fmt: skip


def _everything(project: Project, device: torch.device) -> Samples:
    """All images as one pool. Only `samples_of` and `forget_retain` may choose from it."""
    limit = project.recipe.data.memory_gb * 2**30
    return on_device(project.images, project.index.labels, device, limit_bytes=limit)


def load_checkpoint(project: Project, digest: str) -> tuple[Classifier, checkpoint.Origin]:
    """A checkpoint of the project's model.

    Raises:
        IntegrityError: Missing, altered, or of another model.
    """
    data = project.store.get_bytes(digest, limit=4 << 30)
    return checkpoint.loads(data, f"checkpoint {digest[:12]}", project.recipe.model, factory_of(project))


def factory_of(project: Project) -> Factory | None:
    """What makes the project's network, when that is one of the user's own: their file is run.

    Raises:
        IntegrityError: The file is missing, or not the one that was given to `init`.
        ConfigError: It cannot be run.
    """
    recipe = project.recipe.model
    source = source_of(recipe, project.root)
    return factory_in(source, recipe) if source else None


def origin_of(project: Project, method: str, parent: str = "") -> checkpoint.Origin:
    """What a new checkpoint of the project says about itself."""
    index = project.index
    return checkpoint.Origin(
        class_names=index.class_names, size=project.images.shape[-1], split=index.digest(),
        method=method, parent=parent,
    )  # fmt: skip


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
        options: Other fields of `qmu_edge.export.ExportPlan`.

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


def evaluate_release(project: Project, release: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """What the exported file does on the sets of a split.

    Returns:
        `evaluation` (see `qmu_edge.verify.report`) and `mia_efficacy` (mean and deviation over draws).
    """
    runnable = [sha for name, sha in release["files"].items() if name != FILES["qonnx"]]
    if not runnable:
        raise ConfigError(
            "a release of QONNX files alone cannot be evaluated; onnxruntime has no Quant operator"
        )
    return evaluate_file(project, project.store.open_verified(runnable[0]), split)


def evaluate_file(project: Project, path: Path, split: Split) -> dict[str, Any]:
    """The same for any standard ONNX file."""
    chosen = np.random.default_rng(0).permutation(split.retain)
    parts = {
        "forget": split.forget,
        "retain": np.sort(chosen[: project.recipe.policy.evaluation_images]),
        "test": split.test,
        "validation": split.validation,
    }
    for name in ("retain", "test", "validation"):
        project.allowed(parts[name], f"measured {name} set")
    sets = {
        name: (project.images[part], project.index.labels[part]) for name, part in parts.items() if len(part)
    }
    images = sum(len(labels) for _, labels in sets.values())
    project.progress.start("evaluating the exported file", images)
    evaluation, logits = evaluate(OrtRunner(path, threads=THREADS), sets)
    project.progress.advance(images)
    project.progress.finish()
    efficacy = None
    if {"test", "retain", "forget"} <= sets.keys():
        efficacy = to_json(
            mia_efficacy(*(a for s in ("retain", "test", "forget") for a in (logits[s], sets[s][1])))
        )
    return {"evaluation": to_json(evaluation), "mia_efficacy": efficacy}


def evaluation_in(report: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a stored report."""
    return evaluation_from_json(report["evaluation"])


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
