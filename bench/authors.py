"""How long does Q-MUL take, beside the loop that its authors have released?

Both unlearn the same share of the same images for one epoch, on a ResNet18 with 4-bit weights at full width,
on one device; they take turns in one process. Theirs is run as it is: their network (float32, 8-bit
activations, PReLU), their loop, torchvision's transforms and a DataLoader with worker processes. Only on a
processor `.cuda()` becomes nothing. It needs a copy of their repository (Green-Edge-AI-Group/MU-Q-MUL), which
is not part of this one.

    python bench/authors.py --repository MU-Q-MUL/Classification --data cifar10/ [--images 640]
"""

import argparse
import importlib
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared.record import interleaved, summary, write
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from qmu_edge.data.sources import load
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.kernels import choice
from qmu_edge.models.layers import Shape
from qmu_edge.recipe import DataRecipe, ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, ForgetRetain, on_device
from qmu_edge.train.fit import calibrate_on
from qmu_edge.unlearn.registry import apply, parameters

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# What their files import and the loop does not use.
UNUSED = ("ipdb", "pruner", "matplotlib", "matplotlib.pyplot")


class Images(Dataset[tuple[Any, int]]):
    """CIFAR-10 as torchvision gives it: one image at a time, through PIL; the loop writes `targets`."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        """Take uint8 (n, c, h, w) and labels (n,)."""
        self.data, self.targets = images.transpose(0, 2, 3, 1), targets
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        """One image, augmented and normalised, and its label."""
        return self.transform(self.data[at]), int(self.targets[at])


class _Meter:
    """Stands for their `utils.AverageMeter`."""

    avg = val = 0.0

    def update(self, *given: object) -> None:
        """Count nothing."""


def theirs(
    sets: dict[str, tuple[np.ndarray, np.ndarray]], options: argparse.Namespace
) -> Callable[[], object]:
    """One epoch of their loop; the network is theirs too."""
    repository = options.repository
    sys.path.insert(0, str(repository))
    for name in UNUSED:
        stub: Any = types.ModuleType(name)
        stub.extract_mask = stub.prune_model_custom = stub.remove_prune = None
        sys.modules.setdefault(name, stub)
    utilities: Any = types.ModuleType("utils")
    utilities.AverageMeter, utilities.accuracy = _Meter, lambda output, target: [torch.zeros(1)]
    sys.modules["utils"] = utilities
    for name in ("models", "unlearn"):  # without what their packages import beside the loop
        package: Any = types.ModuleType(name)
        package.__path__ = [str(repository / name)]
        sys.modules[name] = package
    if options.device == "cpu":
        torch.Tensor.cuda = lambda self, *given, **how: self  # type: ignore[method-assign]
    network: Any = importlib.import_module("models.lsq_quant_resnet")
    loop: Any = importlib.import_module("unlearn.RL_min").RL_min
    model = network.QResNet18(bitwidth=4, channel=3, num_classes=10, im_size=(32, 32)).to(options.device)
    loaders = {
        name: DataLoader(Images(*part), options.batch, shuffle=True, num_workers=options.workers)
        for name, part in sets.items()
    }
    arguments = types.SimpleNamespace(
        rewind_epoch=0, unlearn_lr=0.01, momentum=0.9, weight_decay=5e-4, imagenet_arch=False,
        unlearn="RL_min", unlearn_epochs=1, warmup=0, dataset="cifar100", mrl=True, num_classes=10,
        batch_size=options.batch, print_freq=10**9,
    )  # fmt: skip
    return lambda: loop(loaders, model, torch.nn.CrossEntropyLoss(), arguments)


def ours(sets: dict[str, tuple[np.ndarray, np.ndarray]], options: argparse.Namespace) -> Callable[[], object]:
    """One epoch of `qmul`."""
    choice.NATIVE_FROM_STEPS = 0  # type: ignore[misc]  # as in a run of real length
    device, batch, progress = torch.device(options.device), options.batch, Progress()
    both = [np.concatenate(parts) for parts in zip(sets["forget"], sets["retain"], strict=True)]
    everything, few = on_device(both[0], both[1], device, limit_bytes=2**40), len(sets["forget"][1])
    forget, retain = (everything.take(p) for p in torch.arange(len(both[1])).tensor_split([few]))
    shape = Shape(channels=3, classes=10, mean=MEAN, std=STD)
    model = build(ModelRecipe(), shape, 0).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    augment, generator = Augment(pad=4, flip=True), torch.Generator().manual_seed(0)
    calibrate_on(model, retain, batch, generator, augment)
    data = ForgetRetain(forget=forget, retain=retain, validation=forget, augment=augment, progress=progress)
    params = parameters("qmul", {"epochs": 1, "batch": batch}, TrainRecipe(batch=batch))
    return lambda: apply("qmul", model, data, params, generator)


def finished(work: Callable[[], object], options: argparse.Namespace) -> Callable[[], object]:
    """The same, until the device is done."""

    def run() -> None:
        work()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Take turns; write bench/results/authors-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="Processes of the authors' DataLoader.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = DataRecipe(source="folder", path=str(options.data), mean=MEAN, std=STD)
    source = load(recipe, Progress.stderr())
    order = np.random.default_rng(0).permutation(len(source.labels))[: options.images]
    tenth = options.images // 10
    parts = {"forget": order[:tenth], "retain": order[tenth:]}
    sets = {name: (source.images[at].copy(), source.labels[at].copy()) for name, at in parts.items()}
    start = time.perf_counter()
    work = {
        name: finished(make(sets, options), options) for name, make in (("ours", ours), ("theirs", theirs))
    }
    rows = summary(interleaved(work, repeats=options.repeats, warmup=1), "ours")
    print(
        {name: round(row["ratio"], 2) for name, row in rows.items()}, f"{time.perf_counter() - start:.0f} s"
    )
    settings = {k: v for k, v in vars(options).items() if k not in ("repository", "data")}
    print(write(f"authors-{options.device}", settings, rows))


if __name__ == "__main__":
    main()
