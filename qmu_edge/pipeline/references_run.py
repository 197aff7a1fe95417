"""Train the references of a project, and note what tests of its network can see with them."""

from typing import Any

import numpy as np

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.pipeline.evaluate import Positions
from qmu_edge.pipeline.evidence import Evidence
from qmu_edge.pipeline.references import Bank, expected
from qmu_edge.pipeline.release import evaluate_release, make_release
from qmu_edge.project.project import Project
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.queue.foreseen import by_number
from qmu_edge.recipe import Recipe
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import LEAST_REFERENCES, LEAST_UNSEEN, Sensitivity, sensitivity


def build_bank(project: Project, device_name: str) -> dict[str, Any]:
    """As `prepare_references`, by itself.

    Raises:
        ConfigError: The recipe has no bank, or there is no network yet.
    """
    if project.recipe.references.trained != "once":
        raise ConfigError('references are stored where [references] trained = "once"')
    with project.locked():
        project.current(Pointer.CHECKPOINT)
        return prepare_references(project, device_name)


def prepare_references(project: Project, device_name: str) -> dict[str, Any]:
    """Train what is missing, one network after another; continues after a kill. The project is locked.

    Returns:
        How many references there are and how many were trained now, and what a test can see with them.
    """
    built = Bank.of(project).build(device_named(device_name))
    found = _sensitivity(project)
    project.results.note_sensitivity(found)
    shown = by_number(found, project.recipe.policy.max_residual) if found else {}
    return {**built, **shown}


def _sensitivity(project: Project) -> Sensitivity | None:
    """Of tests of the current network; None where there is too little to compare with."""
    index, recipe = project.samples.index, project.recipe
    known, positions = expected(index, Bank.of(project).usable()), _positions(project.samples, recipe)
    unseen = next((s for s in (SetName.TEST, SetName.VALIDATION) if len(positions[s]) >= LEAST_UNSEEN), None)
    if known is None or unseen is None:
        return None
    networks = int(known.networks[positions[SetName.RETAIN]].min())
    if networks < LEAST_REFERENCES:
        return None
    used = {name: positions[name] for name in (SetName.RETAIN, unseen)}
    _, release = make_release(project, project.current(Pointer.CHECKPOINT), (Format.INTEGER,))
    _, seen = evaluate_release(
        project.store, release, project.samples, used, flip=recipe.data.flip, progress=project.progress
    )
    sets = Evidence.of(seen, known).compared(seen, index, project.samples.barred())
    return sensitivity(sets[SetName.RETAIN], sets[unseen], intraclass=known.intraclass, references=networks)


def _positions(samples: ProjectSamples, recipe: Recipe) -> Positions:
    """Training images and unseen ones that nobody has asked to delete."""
    most = recipe.policy.evaluation_images
    kept = ~samples.barred() & ~samples.claimed()
    of = {SetName.TEST: SampleSplit.TEST, SetName.VALIDATION: SampleSplit.VALIDATION}
    retain = np.random.default_rng(0).permutation(samples.trainable())[:most]
    unseen = {name: np.flatnonzero(samples.index.in_split(split) & kept) for name, split in of.items()}
    return {SetName.RETAIN: np.sort(retain), **unseen}
