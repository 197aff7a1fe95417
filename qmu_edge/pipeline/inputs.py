"""Image sets that a run may read: of what nobody has asked to delete, and of what is to be forgotten."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Shape
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import DataRecipe
from qmu_edge.request.split import Split, emptied_classes
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, on_device


def shape_of(samples: ProjectSamples, data: DataRecipe) -> Shape:
    """What enters and leaves a network of the project."""
    return Shape(
        channels=samples.images.shape[1], classes=len(samples.index.class_names),
        mean=data.mean, std=data.std, size=samples.images.shape[-1],
    )  # fmt: skip


def samples_of(
    samples: ProjectSamples, data: DataRecipe, device: torch.device, positions: NDArray[np.int64], use: str
) -> Samples:
    """Images of the dataset that nobody has asked to delete, on the device.

    Args:
        samples: Of the project.
        data: How many bytes may lie on the device.
        device: Where batches go.
        positions: Which samples (m,).
        use: What for; errors say it.

    Raises:
        IntegrityError: A deleted sample is among them; see `ProjectSamples.allowed`.
    """
    return _everything(samples, data, device).take(torch.from_numpy(samples.allowed(positions, use)))


def forget_retain(
    samples: ProjectSamples,
    data: DataRecipe,
    device: torch.device,
    split: Split,
    *,
    state: Path,
    progress: Progress,
) -> ForgetRetain:
    """The sets of a split on the device.

    Args:
        samples: Of the project.
        data: How many bytes may lie on the device, and how training images are augmented.
        device: Where batches go.
        split: Which samples are in which set.
        state: File for the state of an unfinished training.
        progress: Where steps are counted.

    Raises:
        IntegrityError: A deleted sample is retained, or used for tuning.
    """
    everything, index = _everything(samples, data, device), samples.index
    sets = {
        "forget": split.forget,
        "retain": samples.allowed(split.retain, "retain set"),
        "validation": samples.allowed(split.validation, "validation set"),
    }
    found = emptied_classes(index, split, samples.barred())
    retained = np.isin(np.arange(len(index.class_names)), index.labels[split.retain])
    return ForgetRetain(
        classes=() if found.others else found.classes,
        unretained=tuple(np.flatnonzero(~retained).tolist()),
        **{name: everything.take(torch.from_numpy(positions)) for name, positions in sets.items()},
        augment=Augment.of(data), progress=progress, state=state,
    )  # fmt: skip


def _everything(samples: ProjectSamples, data: DataRecipe, device: torch.device) -> Samples:
    """All images as one pool. Only `samples_of` and `forget_retain` may choose from it."""
    limit = int(data.memory_gb * 2**30)
    return on_device(samples.images, samples.index.labels, device, limit_bytes=limit)
