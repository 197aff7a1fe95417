"""What an exported file does on the sets of a split, under onnxruntime."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.errors import ConfigError
from qmu_edge.export.exporter import FILES
from qmu_edge.project.project import Project
from qmu_edge.request.split import Split
from qmu_edge.verify.evaluation import Evaluation, evaluate, evaluation_from_json, to_json
from qmu_edge.verify.session import OrtRunner

THREADS: Final = max(1, min(8, os.cpu_count() or 1))


def evaluate_release(project: Project, release: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """What the exported file does on the sets of a split.

    Returns:
        `evaluation` (see `qmu_edge.verify.evaluation`) and `mia_efficacy` (mean and deviation over draws).
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
