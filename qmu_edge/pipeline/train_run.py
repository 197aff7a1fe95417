"""Train the project's network and make it the current checkpoint."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier
from qmu_edge.pipeline.distributed import Job
from qmu_edge.pipeline.inputs import samples_of, shape_of
from qmu_edge.pipeline.networks import Networks, origin_of
from qmu_edge.pipeline.passes import passes_of
from qmu_edge.pipeline.references_run import prepare_references
from qmu_edge.project.plain import Training
from qmu_edge.project.project import Project
from qmu_edge.project.records import Trained
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import DataRecipe, Recipe
from qmu_edge.runtime.device import device_named
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import counting
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train.batches import Augment
from qmu_edge.train.fit import accuracy
from qmu_edge.train.requantize import requantize

_UNSEEN: Final = (SampleSplit.VALIDATION, SampleSplit.TEST)


def train_project(project: Project, device_name: str, *, replace: bool = False) -> Training:
    """Train on all samples that no request has deleted.

    The same training twice is done once. A training that was killed goes on from its last saved epoch.

    Args:
        project: Open.
        device_name: "auto", "cpu" or "cuda".
        replace: Train also where a network was released, which another one then takes the place of.

    Raises:
        ConfigError: A network was released, and it is not to be replaced.
    """
    device = device_named(device_name)
    with project.locked():
        run, results = project.training(), project.results
        passes = passes_of(results, project.recipe)  # a wrong method is refused now, not after hours
        trained = results.trained(run)
        if not replace:
            _require_unreleased(project.root, project.ledger, trained)
        if trained is None:
            state = project.folder / "work" / f"train-{run[:16]}.safetensors"
            trained = _train(
                Networks.of(project), project.samples, project.recipe, state, device, project.progress
            )
            results.note_trained(run, trained)
        with project.ledger.change():
            project.ledger.set_current(Pointer.CHECKPOINT, trained.checkpoint)
            results.note_adopted(None)
            results.note_training_from_scratch()
            results.note_passes(project.recipe.digest(), passes)
        told = trained.to_json()
        if project.recipe.references.trained == "once":
            told["references"] = prepare_references(project, device_name)
        return told


def _require_unreleased(root: Path, ledger: Ledger, trained: Trained | None) -> None:
    """Refuse to train where the result would take the place of what was released."""
    current, receipts = ledger.current(Pointer.CHECKPOINT), ledger.receipts()
    if ledger.current(Pointer.RELEASE) is None or (trained is not None and trained.checkpoint == current):
        return
    what = "; no receipt would cover the new one until the next deletion" if receipts else ""
    raise ConfigError(f"{root}: has a release of another network{what}; say --replace to train one anew")


def _train(
    networks: Networks, samples: ProjectSamples, recipe: Recipe, state: Path, device: torch.device,
    progress: Progress,
) -> Trained:  # fmt: skip
    shape = shape_of(samples, recipe.data)
    model = build(recipe.model, shape, recipe.train.seed, networks.factory).to(device)
    chosen = samples_of(samples, recipe.data, device, samples.trainable(), "training set")
    job = Job.training(
        model, chosen, recipe.train, Augment.of(recipe.data),
        source=networks.source, progress=progress, state=state,
    )  # fmt: skip
    batch = recipe.train.batch
    with within_memory("[train] batch", batch):
        with counting(device) as throughput:
            _, cost = measured_cost(job.shared)
        spent = {"seconds": cost["seconds"], "peak_mb": cost["peak_mb"], **throughput.spent(len(chosen))}
        requantize(model, chosen, batch=batch, seed=recipe.train.seed, progress=progress)
    checkpoint = networks.save(model, origin_of(samples, "train"))
    scores = accuracies(samples, recipe.data, model, device)
    return Trained(checkpoint=checkpoint, images=len(chosen), accuracy=scores, spent=spent)


def accuracies(
    samples: ProjectSamples, data: DataRecipe, model: Classifier, device: torch.device
) -> dict[str, float]:
    """Accuracy in torch on the validation and the test samples that are not deleted, where there are any."""
    usable = ~samples.barred()
    sets = {s.word: np.flatnonzero(usable & samples.index.in_split(s)) for s in _UNSEEN}
    return {
        word: accuracy(model, samples_of(samples, data, device, positions, word))
        for word, positions in sets.items()
        if len(positions)
    }
