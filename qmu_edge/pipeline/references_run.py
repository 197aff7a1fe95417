"""Train the references of a project, and note what tests of its network can see with them."""

from typing import Any

import numpy as np

from qmu_edge.data.index import SampleSplit
from qmu_edge.export.targets import Format
from qmu_edge.pipeline.evaluate import Positions
from qmu_edge.pipeline.evidence import Evidence
from qmu_edge.pipeline.references import bank, build_references, expected
from qmu_edge.pipeline.release import evaluate_release, make_release
from qmu_edge.project.project import Project
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import LEAST_REFERENCES, LEAST_UNSEEN, Sensitivity, sensitivity


def prepare_references(project: Project, device_name: str) -> dict[str, Any]:
    """Train what is missing, one network after another; continues after a kill. The project is locked.

    Returns:
        How many references there are and how many were trained now, and what a test can see with them.
    """
    built = build_references(project, device_named(device_name))
    found = _sensitivity(project)
    project.results.note_sensitivity(found)
    return {**built, **(foreseen(found, project.recipe.policy.max_residual) if found else {})}


def foreseen(found: Sensitivity, most: float) -> dict[str, Any]:
    """How often a test detects a full trace, and proves that at most `most` is left, by number of images."""
    numbers = (1, 5, 20, 100, 500)
    return {
        "detects": {str(n): round(found.power(n), 4) for n in numbers},
        "proves": {str(n): round(found.proof(n, most), 4) for n in numbers},
    }


def _sensitivity(project: Project) -> Sensitivity | None:
    """Of tests of the current network; None where there is too little to compare with."""
    known, positions = expected(project, bank(project)), _positions(project)
    unseen = next((s for s in (SetName.TEST, SetName.VALIDATION) if len(positions[s]) >= LEAST_UNSEEN), None)
    if known is None or unseen is None:
        return None
    networks = int(known.networks[positions[SetName.RETAIN]].min())
    if networks < LEAST_REFERENCES:
        return None
    used = {name: positions[name] for name in (SetName.RETAIN, unseen)}
    _, release = make_release(project, project.current(Pointer.CHECKPOINT), (Format.INTEGER,))
    _, seen = evaluate_release(
        project.store, release, project.samples, used, flip=project.recipe.data.flip,
        progress=project.progress,
    )  # fmt: skip
    samples = project.samples
    sets = Evidence.of(seen, known).compared(seen, samples.index, samples.barred())
    return sensitivity(
        sets[SetName.RETAIN], sets[unseen], intraclass=known.intraclass, references=networks
    )


def _positions(project: Project) -> Positions:
    """Training images and unseen ones that nobody has asked to delete."""
    samples, most = project.samples, project.recipe.policy.evaluation_images
    kept = ~samples.barred() & ~samples.claimed()
    of = {SetName.TEST: SampleSplit.TEST, SetName.VALIDATION: SampleSplit.VALIDATION}
    retain = np.random.default_rng(0).permutation(samples.trainable())[:most]
    unseen = {name: np.flatnonzero(samples.index.in_split(split) & kept) for name, split in of.items()}
    return {SetName.RETAIN: np.sort(retain), **unseen}
