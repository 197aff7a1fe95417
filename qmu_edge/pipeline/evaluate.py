"""What an exported file does on the sets of a split, under onnxruntime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import Sha256
from qmu_edge.io.plain import to_json
from qmu_edge.io.progress import Progress
from qmu_edge.machine.processors import processors
from qmu_edge.project.records import Measured, Release
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Split
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.evaluation import Labelled, SetName, evaluate, seen
from qmu_edge.verify.onnx.reader import MAX_BYTES, OnnxFile, parse_file
from qmu_edge.verify.outputs import require_same_outputs
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Thresholds

SetPositions = Mapping[SetName, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one file does on each image of some sets.

    Attributes:
        positions: Of the images in the index, by set (n,).
        right: Which it recognises, bool (n,).
        scores: Mean scaled confidence over the views of each, float64 (n,).
    """

    positions: SetPositions
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


def measured_file(release: Release) -> Sha256:
    """Digest of the file of a release that is measured; see `runnable`.

    Where outputs were taken out, it is the file with all of them: of a class that is never answered nothing
    could be said.
    """
    return release.whole.file if release.whole else release.files[runnable(release)]


def stored_file(store: ObjectStore, digest: Sha256) -> OnnxFile:
    """A stored model file: exactly the bytes of this digest.

    Raises:
        IntegrityError: The object is missing or altered.
    """
    return parse_file(store.get_bytes(digest, limit=MAX_BYTES), store.path(digest))


def thresholds_of(policy: PolicyRecipe) -> Thresholds:
    """What a policy allows."""
    ta, ra = (None if v == "off" else v for v in (policy.max_ta_drop, policy.max_ra_drop))
    return Thresholds(max_residual=policy.max_residual, max_ta_drop=ta, max_ra_drop=ra)


def positions_of(split: Split, *, most: int) -> SetPositions:
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
    file: OnnxFile,
    samples: ProjectSamples,
    positions: SetPositions,
    *,
    flip: bool,
    progress: Progress,
    outputs: Sequence[int] = (),
    narrowed: Sequence[OnnxFile] = (),
) -> tuple[Measured, Seen]:
    """Run any standard ONNX file on sets of samples.

    Args:
        file: What was read of it.
        samples: Of the project.
        positions: Which samples are in which set.
        flip: Whether a score is the mean over an image and its mirror image.
        progress: Where images are counted.
        outputs: Of the files in `narrowed`, the labels that they have an output for.
        narrowed: Files from which outputs were taken out: the others must be those of `file`.

    Raises:
        IntegrityError: A deleted sample is in a set that is kept.
        ExportError: A file in `narrowed` gives something else.
    """
    for name in positions.keys() - {SetName.FORGET}:
        samples.allowed(positions[name], f"measured {name} set")
    sets = {n: Labelled(samples.images[p], samples.index.labels[p]) for n, p in positions.items()}
    total = sum(map(len, positions.values()))
    progress.start("evaluating the exported file", total)
    runner = OrtRunner(file, threads=processors().threads)
    evaluation, logits = evaluate(runner, sets)
    for other in narrowed:
        shown = {name: images for name, (images, _) in sets.items()}
        require_same_outputs(OrtRunner(other, threads=runner.threads), outputs, shown, logits)
    found = {n: seen(runner, images, logits[n], labels, flip=flip) for n, (images, labels) in sets.items()}
    progress.advance(total)
    progress.finish()
    efficacy, order = None, (SetName.RETAIN, SetName.TEST, SetName.FORGET)
    if all(name in sets for name in order):
        efficacy = to_json(mia_efficacy(*(a for s in order for a in (logits[s], sets[s].labels))))
    right, scores = {n: pair[0] for n, pair in found.items()}, {n: pair[1] for n, pair in found.items()}
    return Measured(evaluation=evaluation, mia_efficacy=efficacy), Seen(positions, right, scores)
