"""The last k blocks of a network and all modules after them, which `cf_k` and `eu_k` train.

A network's `blocks` are its stages in forward order, and its children are registered in that order too.
"""

import torch
from torch import nn

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, train_mode


def last_blocks(model: Classifier, k: int) -> list[str]:
    """Names of the last `k` blocks and of every module after them.

    Raises:
        UnlearnError: The network has fewer blocks, or no module `blocks`.
    """
    if not hasattr(model, "blocks"):
        raise UnlearnError("this network has no stages named `blocks`: cf_k and eu_k cannot tell its end")
    blocks = len(list(model.get_submodule("blocks").children()))
    if k > blocks:
        raise UnlearnError(f"k is {k}, but {model.recipe.architecture} has {blocks} blocks")
    children = [name for name, _ in model.named_children()]
    behind = children[children.index("blocks") + 1 :]
    return [*(f"blocks.{number}" for number in range(blocks - k, blocks)), *behind]


def submodules(model: Classifier, names: list[str]) -> nn.ModuleList:
    """The modules with these names, as one module."""
    return nn.ModuleList(model.get_submodule(name) for name in names)


def train_end(
    model: Classifier,
    end: nn.ModuleList,
    data: ForgetRetain,
    settings: Optimization,
    *,
    label: str,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train the `end` of a network on `data.retain`; the layers before it do not change.

    Args:
        model: The network that contains `end`.
        end: The modules that are trained; only their batch-norm statistics are updated.
        data: Retain set and augmentation.
        settings: Hyperparameters of the run.
        label: Name of the run in the progress output.
        batch: Images per step.
        generator: Draws order and augmentation.

    Raises:
        UnlearnError: The loss is not finite.
    """
    model.requires_grad_(False)  # no backward pass through the layers before `end`
    end.requires_grad_(True)
    steps = settings.epochs * steps_per_epoch(len(data.retain), batch)
    descent = Descent(end, settings, steps, data.progress)
    data.progress.start(label, settings.epochs * len(data.retain))
    train_mode(model, statistics=False)
    end.train()
    for _ in range(settings.epochs):
        descent.epoch(cross_entropy(model), data.retain.batches(batch, generator, data.augment))
    data.progress.finish()
