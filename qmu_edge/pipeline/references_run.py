"""Train the references of a project, and note what tests of its network can see with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.pipeline.comparison import Comparison
from qmu_edge.pipeline.evaluate import Positions
from qmu_edge.pipeline.references import Bank, expected
from qmu_edge.pipeline.release import evaluate_release, make_release
from qmu_edge.project.project import Project
from qmu_edge.project.records import Release
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.queue.foreseen import by_number
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import LEAST_REFERENCES, LEAST_UNSEEN, Sensitivity, sensitivity


def prepare_references(project: Project, device_name: str) -> dict[str, Any]:
    """Train what is missing, one network after another; continues after a kill. The project is locked.

    Returns:
        How many references there are and how many were trained now, and what a test can see with them.

    Raises:
        ConfigError: The recipe keeps no references, or there is no network yet.
    """
    if project.recipe.references.trained != "once":
        raise ConfigError('references are kept where [references] says trained = "once"')
    checkpoint, bank = project.current(Pointer.CHECKPOINT), Bank.of(project)
    unfinished = [row.request_id for row in project.ledger.requests() if row.is_open]
    built = bank.build(device_named(device_name), unfinished)
    _, release = make_release(project, checkpoint, (Format.INTEGER,))
    found = _sensitivity(bank, release)
    project.results.note_sensitivity(found)
    return {**built, **(by_number(found, project.recipe.policy.max_residual) if found else {})}


def _sensitivity(bank: Bank, release: Release) -> Sensitivity | None:
    """Of tests of the released file; None where there is too little to compare with."""
    samples, most = bank.samples, bank.recipe.policy.evaluation_images
    known, positions = expected(samples.index, bank.usable()), _positions(samples, most)
    unseen = next((s for s in (SetName.TEST, SetName.VALIDATION) if len(positions[s]) >= LEAST_UNSEEN), None)
    if known is None or unseen is None:
        return None
    used = {name: _several(positions[name], known.networks) for name in (SetName.RETAIN, unseen)}
    if not len(used[SetName.RETAIN]) or len(used[unseen]) < LEAST_UNSEEN:
        return None
    networks, flip = int(known.networks[used[SetName.RETAIN]].min()), bank.recipe.data.flip
    _, seen = evaluate_release(bank.store, release, samples, used, flip=flip, progress=bank.progress)
    sets = Comparison.of(seen, known).compared(seen, samples.index, samples.barred())
    return sensitivity(sets[SetName.RETAIN], sets[unseen], intraclass=known.intraclass, references=networks)


def _several(positions: NDArray[np.int64], networks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The samples that several networks never saw."""
    return positions[networks[positions] >= LEAST_REFERENCES]


def _positions(samples: ProjectSamples, most: int) -> Positions:
    """Training images and unseen ones that nobody has asked to delete."""
    kept = ~samples.barred() & ~samples.claimed()
    of = {SetName.TEST: SampleSplit.TEST, SetName.VALIDATION: SampleSplit.VALIDATION}
    retain = np.random.default_rng(0).permutation(samples.trainable())[:most]
    unseen = {name: np.flatnonzero(samples.index.in_split(split) & kept) for name, split in of.items()}
    return {SetName.RETAIN: np.sort(retain), **unseen}
