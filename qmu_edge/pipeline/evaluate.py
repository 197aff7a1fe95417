"""What an exported file does on the sets of a split, under onnxruntime."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.io.plain import to_json
from qmu_edge.io.progress import Progress
from qmu_edge.machine.processors import processors
from qmu_edge.project.records import Measured, Release
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Split
from qmu_edge.verify.evaluation import Labelled, SetName, evaluate
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Thresholds


def runnable(release: Release) -> str:
    """Name of the file of a release that is measured.

    Raises:
        ConfigError: There is none.
    """
    names = [name for name in release.files if name != Format.QONNX.file_name]
    if not names:
        raise ConfigError(
            "a release of QONNX files alone cannot be evaluated; onnxruntime has no Quant operator"
        )
    return names[0]


def thresholds_of(policy: PolicyRecipe) -> Thresholds:
    """What a policy allows."""
    limits = {f.name: getattr(policy, f.name) for f in fields(Thresholds)}
    return Thresholds(**{k: None if v == "off" else v for k, v in limits.items()})


def evaluate_file(
    path: Path, samples: ProjectSamples, split: Split, *, most: int, progress: Progress
) -> Measured:
    """Run any standard ONNX file on the sets of a split.

    Args:
        path: The file.
        samples: Of the project.
        split: Which samples are in which set.
        most: Retain images to run at most, drawn at random.
        progress: Where images are counted.

    Raises:
        IntegrityError: A deleted sample is in a set that is kept.
    """
    chosen = np.random.default_rng(0).permutation(split.retain)
    positions = {
        SetName.FORGET: split.forget,
        SetName.RETAIN: np.sort(chosen[:most]),
        SetName.TEST: split.test,
        SetName.VALIDATION: split.validation,
    }
    for name in (SetName.RETAIN, SetName.TEST, SetName.VALIDATION):
        samples.allowed(positions[name], f"measured {name} set")
    sets = {n: Labelled(samples.images[p], samples.index.labels[p]) for n, p in positions.items() if len(p)}
    images = sum(len(labels) for _, labels in sets.values())
    progress.start("evaluating the exported file", images)
    evaluation, logits = evaluate(OrtRunner(path, threads=processors().threads), sets)
    progress.advance(images)
    progress.finish()
    efficacy, order = None, (SetName.RETAIN, SetName.TEST, SetName.FORGET)
    if all(name in sets for name in order):
        efficacy = to_json(mia_efficacy(*(a for s in order for a in (logits[s], sets[s].labels))))
    return Measured(evaluation=evaluation, mia_efficacy=efficacy)
