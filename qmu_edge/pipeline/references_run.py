"""Train the references of a project, and note what tests of its network can see with them."""

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import ConfigError
from qmu_edge.export.targets import Format
from qmu_edge.pipeline.comparison import Comparison
from qmu_edge.pipeline.evaluate import SetPositions
from qmu_edge.pipeline.references import Bank, expected
from qmu_edge.pipeline.release import evaluate_release, make_release
from qmu_edge.project.plain import References
from qmu_edge.project.project import Project
from qmu_edge.project.records import Release
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.queue.foreseen import by_number
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import LEAST_REFERENCES, LEAST_UNSEEN, Sensitivity, sensitivity
from qmu_edge.verify.verdict import unseen_of


def prepare_references(project: Project, device_name: str) -> References:
    """Train what is missing, one network after another; continues after a kill. The project is locked.

    Raises:
        ConfigError: The recipe keeps no references, or there is no network yet.
    """
    if project.recipe.references.trained != "once":
        raise ConfigError('references are kept where [references] says trained = "once"')
    checkpoint, bank = project.current(Pointer.CHECKPOINT), Bank.of(project)
    built = bank.build(device_named(device_name))
    _, release = make_release(project, checkpoint, (Format.INTEGER,))
    found = _sensitivity(bank, release)
    project.results.note_sensitivity(found)
    return {**built, **by_number(found, project.results, project.recipe)} if found else built


def _sensitivity(bank: Bank, release: Release) -> Sensitivity | None:
    """Of tests of the released file; None where there is too little to compare with."""
    samples, recipe = bank.samples, bank.recipe
    known = expected(samples.index, bank.usable())
    if known is None:
        return None
    positions = _positions(samples, known.networks, recipe.policy.evaluation_images)
    _, seen = evaluate_release(
        bank.store, release, samples, positions, flip=recipe.data.flip, progress=bank.progress
    )
    sets = Comparison.of(seen, known).compared(seen, samples.index, samples.barred())
    retain, unseen = sets.get(SetName.RETAIN), unseen_of(sets)
    if retain is None or unseen is None or len(unseen.labels) < LEAST_UNSEEN:
        return None
    networks = int(known.networks[positions[SetName.RETAIN]].min())
    return sensitivity(retain, unseen, intraclass=known.intraclass, references=networks)


def _positions(samples: ProjectSamples, networks: NDArray[np.int64], most: int) -> SetPositions:
    """Training images and unseen ones that nobody has asked to delete, and that enough networks never saw."""
    good = ~samples.barred() & ~samples.claimed() & (networks >= LEAST_REFERENCES)
    of = {
        SetName.RETAIN: SampleSplit.TRAIN, SetName.TEST: SampleSplit.TEST,
        SetName.VALIDATION: SampleSplit.VALIDATION,
    }  # fmt: skip
    found = {name: np.flatnonzero(samples.index.in_split(split) & good) for name, split in of.items()}
    found[SetName.RETAIN] = np.sort(np.random.default_rng(0).permutation(found[SetName.RETAIN])[:most])
    return {name: positions for name, positions in found.items() if len(positions)}
