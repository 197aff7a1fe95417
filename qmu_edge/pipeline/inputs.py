"""What a run reads from a project: images that nobody has asked to delete, and networks."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qmu_edge.models.layers import Classifier, Factory
from qmu_edge.models.own import factory_in
from qmu_edge.project.model_file import source_of
from qmu_edge.project.project import Project
from qmu_edge.request.split import Split, gone
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, on_device


def samples_of(project: Project, device: torch.device, positions: NDArray[np.int64], use: str) -> Samples:
    """Images of the dataset that nobody has asked to delete, on the device.

    Args:
        project: Open.
        device: Where batches go.
        positions: Which samples (m,).
        use: What for; errors say it.

    Raises:
        IntegrityError: A deleted sample is among them; see `Project.allowed`.
    """
    return _everything(project, device).take(torch.from_numpy(project.allowed(positions, use)))


def forget_retain(project: Project, split: Split, device: torch.device, state: Path) -> ForgetRetain:
    """The sets of a split on the device.

    Raises:
        IntegrityError: A deleted sample is retained, or used for tuning.
    """
    everything, recipe = _everything(project, device), project.recipe.data
    parts = {
        "forget": split.forget,
        "retain": project.allowed(split.retain, "retain set"),
        "validation": project.allowed(split.validation, "validation set"),
    }
    found = gone(project.index, split, project.barred())
    left = np.isin(np.arange(len(project.index.class_names)), project.index.labels[split.retain])
    return ForgetRetain(
        classes=() if found.others else found.classes, unretained=tuple(np.flatnonzero(~left).tolist()),
        **{name: everything.take(torch.from_numpy(part)) for name, part in parts.items()},
        augment=Augment(recipe.pad, recipe.flip), progress=project.progress, state=state,
    )  # fmt: skip


def _everything(project: Project, device: torch.device) -> Samples:
    """All images as one pool. Only `samples_of` and `forget_retain` may choose from it."""
    limit = project.recipe.data.memory_gb * 2**30
    return on_device(project.images, project.index.labels, device, limit_bytes=limit)


def load_checkpoint(project: Project, digest: str) -> tuple[Classifier, checkpoint.Origin]:
    """A checkpoint of the project's model.

    Raises:
        IntegrityError: Missing, altered, or of another model.
    """
    data = project.store.get_bytes(digest, limit=4 << 30)
    return checkpoint.loads(data, f"checkpoint {digest[:12]}", project.recipe.model, factory_of(project))


def factory_of(project: Project) -> Factory | None:
    """What makes the project's network, when that is one of the user's own: their file is run.

    Raises:
        IntegrityError: The file is missing, or not the one that was given to `init`.
        ConfigError: It cannot be run.
    """
    recipe = project.recipe.model
    source = source_of(recipe, project.root)
    return factory_in(source, recipe) if source else None


def origin_of(project: Project, method: str, parent: str = "") -> checkpoint.Origin:
    """What a new checkpoint of the project says about itself."""
    index = project.index
    return checkpoint.Origin(
        class_names=index.class_names, size=project.images.shape[-1], split=index.digest(),
        method=method, parent=parent,
    )  # fmt: skip
