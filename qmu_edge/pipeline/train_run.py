"""Train the project's network and make it the current checkpoint."""

from typing import Any

import numpy as np
import torch

from qmu_edge.machine.cost import accounted
from qmu_edge.models.build import build
from qmu_edge.models.layers import Shape
from qmu_edge.pipeline.distributed import TRAINING, Job
from qmu_edge.pipeline.inputs import factory_of, origin_of, samples_of
from qmu_edge.project.model_file import source_of
from qmu_edge.project.project import Project
from qmu_edge.queue.schedule import EXACT, TRAINING_COST
from qmu_edge.runtime.device import device_named
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import metered
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain
from qmu_edge.train.fit import accuracy
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import require_known


def train_project(project: Project, device_name: str) -> dict[str, Any]:
    """Train on all samples that no request has deleted.

    The same training twice is done once. A training that was killed goes on from its last saved epoch.

    Returns:
        Digest of the checkpoint, the network's accuracies in torch (validation and test), and what its
        training has spent, in this process.
    """
    require_known(project.recipe.policy.rungs, project.recipe)  # better now than after hours of training
    device = device_named(device_name)
    with project.held():
        return _train(project, device)


def _train(project: Project, device: torch.device) -> dict[str, Any]:
    recipe, index, positions = project.recipe, project.index, project.trainable()
    run = project.training()
    known = project.ledger.meta(f"trained:{run}")
    if known is None:
        shape = Shape(
            channels=project.images.shape[1], classes=len(index.class_names),
            mean=recipe.data.mean, std=recipe.data.std,
        )  # fmt: skip
        model = build(recipe.model, shape, recipe.train.seed, factory_of(project)).to(device)
        chosen = samples_of(project, device, positions, "training set")
        state = project.folder / "work" / f"train-{run[:16]}.safetensors"
        nothing = torch.empty(0, dtype=torch.int64)
        data = ForgetRetain(
            forget=chosen.take(nothing), retain=chosen, validation=chosen.take(nothing),
            augment=Augment(recipe.data.pad, recipe.data.flip), progress=project.progress, state=state,
        )  # fmt: skip
        job = Job(
            method=TRAINING, model=model, data=data, given={}, train=recipe.train, seed=recipe.train.seed,
            source=source_of(recipe.model, project.root),
        )  # fmt: skip
        batch = recipe.train.batch
        with within_memory("[train] batch", batch):
            with metered(device) as meter:
                _, cost = accounted(job.shared)
            spent = {**cost, **meter.spent(len(chosen))}
            requantize(model, chosen, batch=batch, seed=recipe.train.seed, progress=project.progress)
        digest = project.store.put_bytes(checkpoint.dumps(model, origin_of(project, "train")))
        alive = ~project.barred()
        scores = {
            name: accuracy(
                model, samples_of(project, device, np.flatnonzero(alive & (index.splits == code)), name)
            )
            for code, name in ((1, "validation"), (2, "test"))
        }
        known = {"checkpoint": digest, "images": len(positions), "accuracy": scores, "spent": spent}
        project.ledger.set_meta(f"trained:{run}", known)
        project.ledger.set_meta(TRAINING_COST, {"seconds": cost["seconds"], "images": len(positions)})
    deleted = project.ledger.training_images(barred=True)
    with project.ledger.change():
        project.ledger.set_current("checkpoint", known["checkpoint"])
        project.ledger.set_meta(EXACT, deleted)
    return dict(known)
