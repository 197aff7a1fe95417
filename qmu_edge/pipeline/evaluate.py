"""What an exported file does on the sets of a split, under onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from qmu_edge.verify.mia import mean_score, views
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Thresholds

Positions = Mapping[SetName, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one file does on each image of some sets.

    Attributes:
        positions: Of the images in the index, by set (n,).
        right: Which it recognises, bool (n,).
        scores: Mean scaled confidence over the views of each, float64 (n,).
    """

    positions: Positions
    right: Mapping[SetName, NDArray[np.bool_]]
    scores: Mapping[SetName, NDArray[np.float64]]


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
    limits: dict[str, Any] = {f.name: getattr(policy, f.name) for f in fields(Thresholds)}
    values: dict[str, Any] = {k: None if v == "off" else v for k, v in limits.items()}
    return Thresholds(**values)


def positions_of(split: Split, *, most: int) -> Positions:
    """The sets of a split that a file is measured on; empty ones are left out.

    Args:
        split: Which samples are in which set.
        most: Retain images at most, drawn at random.
    """
    chosen = np.random.default_rng(0).permutation(split.retain)
    found = {
        SetName.FORGET: split.forget,
        SetName.RETAIN: np.sort(chosen[:most]),
        SetName.TEST: split.test,
        SetName.VALIDATION: split.validation,
    }
    return {name: positions for name, positions in found.items() if len(positions)}


def evaluate_file(
    path: Path, samples: ProjectSamples, positions: Positions, *, flip: bool, progress: Progress
) -> tuple[Measured, Seen]:
    """Run any standard ONNX file on sets of samples.

    Args:
        path: The file.
        samples: Of the project.
        positions: Which samples are in which set.
        flip: Whether training mirrors images: scores are then means over both views.
        progress: Where images are counted.

    Raises:
        IntegrityError: A deleted sample is in a set that is kept.
    """
    for name in positions.keys() - {SetName.FORGET}:
        samples.allowed(positions[name], f"measured {name} set")
    sets = {n: Labelled(samples.images[p], samples.index.labels[p]) for n, p in positions.items()}
    images = sum(len(labels) for _, labels in sets.values())
    progress.start("evaluating the exported file", images)
    runner = OrtRunner(path, threads=processors().threads)
    evaluation, logits = evaluate(runner, sets)
    seen = _seen(runner, positions, sets, logits, flip=flip)
    progress.advance(images)
    progress.finish()
    efficacy, order = None, (SetName.RETAIN, SetName.TEST, SetName.FORGET)
    if all(name in sets for name in order):
        efficacy = to_json(mia_efficacy(*(a for s in order for a in (logits[s], sets[s].labels))))
    return Measured(evaluation=evaluation, mia_efficacy=efficacy), seen


def _seen(
    runner: OrtRunner, positions: Positions, sets: Mapping[SetName, Labelled],
    logits: Mapping[SetName, NDArray[np.float32]], *, flip: bool,
) -> Seen:  # fmt: skip
    right, scores = {}, {}
    for name, (images, labels) in sets.items():
        mirrored = [runner.logits(view) for view in views(images, flip=flip)[1:]]
        right[name] = logits[name].argmax(axis=1) == labels
        one_class = logits[name].shape[1] < 2  # there is no confidence to compare
        scores[name] = np.zeros(len(labels)) if one_class else mean_score([logits[name], *mirrored], labels)
    return Seen(positions, right, scores)
