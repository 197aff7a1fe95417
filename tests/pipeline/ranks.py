"""What each process of test_distributed.py runs: jobs of the first, computed by all.

torchrun --nproc-per-node 2 tests/ranks.py JOBS RESULTS
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.pipeline import distributed
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.runtime.parallel import processes
from qmu_edge.train import loop
from qmu_edge.train.batches import Augment, Batch, ForgetRetain, Samples
from qmu_edge.train.loop import Descent, Optimization
from tests.networks import make_shallow

TRAIN = TrainRecipe(epochs=2, batch=15, lr=0.01, warmup=0.0, precision="float32")


def images(n: int, seed: int = 0) -> Samples:
    """Greyscale images of three classes, told apart by where the bright bar lies."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = torch.randint(60, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[0, 3 * label : 3 * label + 2] += 180
    return Samples(pixels, torch.arange(n), labels, torch.device("cpu"))


def network(recipe: dict[str, Any]) -> Classifier:
    """A small network, calibrated."""
    model = build(
        ModelRecipe.model_validate({"width": 0.125, **recipe}), Shape(channels=1, classes=3), seed=0
    )
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 1, 8, 8, generator=generator) for _ in range(calibration_batches(model))]
    calibrate(model, batches)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # away from 0, where a rectifier begins
            nn.init.normal_(module.bias, 0.5, 0.5, generator=generator)
    return model.eval()


def job(method: str, recipe: dict[str, Any], given: dict[str, Any]) -> distributed.Job:
    """Forget 10 of 45 images, or train on all of them; batches of 15 cannot be halved."""
    pool, training = images(45, 0), method == distributed.TRAINING
    forget = 0 if training else 10
    data = ForgetRetain(
        forget=pool.take(torch.arange(forget)), retain=pool.take(torch.arange(forget, 45)),
        validation=pool.take(torch.arange(forget)), augment=Augment(pad=1),
    )  # fmt: skip
    model = network(recipe)
    if training:
        model = build(model.recipe, model.shape, TRAIN.seed)
    return distributed.Job(
        method=method, model=model, data=data, given=given, train=TRAIN, seed=3, source=None
    )


def gradient(recipe: dict[str, Any]) -> dict[str, Tensor]:
    """7 images in double precision: gradient of a loss with a penalty, and the network after a step."""
    model = network(recipe).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # each process draws its own masks
            module.eval()
    one = Descent(model, Optimization(scale_lr=1.0, precision="float32"), 1, Progress())
    batch: Batch = next(images(7, 2).batches(7))

    def loss(batch: Batch) -> Tensor:
        penalty = sum(p.abs().sum() for p in model.parameters() if p.dim() > 1)
        return F.cross_entropy(model(batch.images.double()), batch.labels) + 1e-3 * penalty

    found = {"gradient": one.gradient(loss, batch)}
    one.step(loss, batch)
    statistics = {n: b for n, b in model.named_buffers() if "running" in n}
    return found | {n: t.detach() for n, t in (statistics | dict(model.named_parameters())).items()}


def compute(wanted: list[list[Any]]) -> dict[str, Tensor]:
    """Everything that was asked for; the names say by which entry."""
    found: dict[str, Tensor] = {}
    for number, (method, recipe, given) in enumerate(wanted):
        tensors = (
            gradient(recipe) if method == "gradient" else job(method, recipe, given).shared().state_dict()
        )
        found |= {f"{number}.{name}": tensor.contiguous().clone() for name, tensor in tensors.items()}
    return found


def main(jobs: Path, results: Path) -> None:
    """The first process asks, all compute; what has no job of its own is asked of all alike."""
    torch.set_num_threads(1)
    loop.mixed_precision = lambda *_: False  # half precision would round each part for itself
    wanted = json.loads(jobs.read_text("utf-8"))
    with distributed.group() as first:
        assert processes() == 2
        alone = [w for w in wanted if w[0] == "gradient"]
        found = compute(alone)
        if not first:
            distributed.follow()
            return
        shared = compute([w for w in wanted if w[0] != "gradient"])
        save_file({f"a{k}": v for k, v in found.items()} | {f"b{k}": v for k, v in shared.items()}, results)


if __name__ == "__main__":
    make_shallow(pytest.MonkeyPatch())
    main(Path(sys.argv[1]), Path(sys.argv[2]))
