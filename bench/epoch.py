"""How long does an epoch of training take, where does it go, and how far is it from what the machine can do?

The float network and the W4A4 one, as training runs them, take turns: an epoch on made-up images, cropped and
flipped. Beside the seconds stand those of data, steps and the rest, the most memory, and a floor: arithmetic
of the convolutions at the speed of a large matrix product, everything else at the speed of copying memory.

    python bench/epoch.py [--device cuda] [--images 50000] [--batch 256] [--epochs 3] [--width 1.0]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from shared.record import float_twin, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.runtime.throughput import counting
from qmu_edge.train.batches import Augment, Samples, on_device, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, cross_entropy, mixed_precision

AUGMENT = Augment(pad=4, flip=True)


def network(architecture: str, options: argparse.Namespace) -> Classifier:
    """A calibrated W4A4 network on the device."""
    recipe = ModelRecipe.model_validate({"architecture": architecture, "width": options.width})
    model = build(recipe, Shape(channels=3, classes=10), 0).to(options.device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibrate(model, [torch.rand(options.batch, 3, 32, 32, device=options.device)])
    return model.train()


def epochs(model: nn.Module, samples: Samples, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each epoch spends; the first one, which warms up, is not told."""
    steps = (1 + options.epochs) * steps_per_epoch(len(samples), options.batch)
    settings = Optimization(lr=0.01, momentum=0.9, weight_decay=5e-4, scale_lr=0.1)
    descent = Descent(model, settings, max(1000, steps), Progress())
    generator = torch.Generator().manual_seed(0)
    for number in range(1 + options.epochs):
        start = time.perf_counter()
        with counting(samples.device) as throughput:
            descent.epoch(cross_entropy(model), samples.batches(options.batch, generator, AUGMENT))
        spent = throughput.spent(len(samples))
        if number:
            yield {"seconds": time.perf_counter() - start, **spent}
        else:
            yield {}


def arithmetic(twin: nn.Module, batch: torch.Tensor) -> float:
    """Operations of a step of the float network: three times those of a pass forward; a multiply-add is two.

    PyTorch counts the backward pass of grouped convolutions as if they were not.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(batch)
    return 3.0 * float(counter.get_total_flops())


def moved(twin: nn.Module, batch: torch.Tensor, itemsize: int) -> int:
    """Bytes that a step of the float network moves outside of its convolutions, if each layer passes once.

    Forward a layer reads its input and writes its output; backward it reads the input and the gradient of the
    output and writes that of the input.
    """
    numbers = 0

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal numbers
        numbers += 3 * given[0].numel() + 2 * out.numel()

    layers = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d | nn.ReLU)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        twin(batch)
    for handle in handles:
        handle.remove()
    return itemsize * numbers


def best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of ten."""
    found = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)


def floor(model: Classifier, images: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds that an epoch of the float network takes at the measured speed of this machine."""
    device = torch.device(options.device)
    half = mixed_precision("auto", model)
    kind = torch.bfloat16 if half else torch.float32
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    operations_per_s = 2 * side**3 / best(lambda: a @ b, device)
    here, there = torch.zeros(2, 2**28, dtype=torch.uint8, device=device)
    bytes_per_s = 2 * here.numel() / best(lambda: there.copy_(here), device)
    twin = float_twin(model)
    batch = torch.rand(options.batch, 3, 32, 32, device=device)
    share = images / options.batch
    return {
        "tera_operations_per_s": operations_per_s / 1e12, "giga_bytes_per_s": bytes_per_s / 1e9,
        "arithmetic_s": share * arithmetic(twin, batch) / operations_per_s,
        "memory_s": share * moved(twin, batch, kind.itemsize) / bytes_per_s,
    }  # fmt: skip


def main() -> None:
    """Both networks; write bench/results/epoch-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, rng = torch.device(options.device), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (options.images, 3, 32, 32), np.uint8)
    samples = on_device(pixels, rng.integers(0, 10, options.images), device, limit_bytes=2**40)
    results: dict[str, Any] = {}
    for architecture in ("resnet18", "mobilenet_v2"):
        kinds = {"float": float_twin(network(architecture, options)), "W4A4": network(architecture, options)}
        running = {kind: epochs(model, samples, options) for kind, model in kinds.items()}
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for number in range(1 + options.epochs):
            for kind, run in running.items():
                with kept_memory(device):
                    spent = next(run)
                if number:
                    found[kind].append(spent)
        rows: dict[str, Any] = {kind: averaged(runs) for kind, runs in found.items()}
        rows["floor"] = floor(network(architecture, options), options.images, options)
        results[architecture] = rows
        print(
            architecture, {k: {n: round(v, 3) for n, v in row.items()} for k, row in rows.items()}, flush=True
        )
    print(write(f"epoch-{options.device}", vars(options), results))


def averaged(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Means over epochs, and the deviation of the seconds."""
    means = {key: mean(run[key] for run in runs) for key in runs[0]}
    return {**means, "deviation_s": stdev(r["seconds"] for r in runs) if len(runs) > 1 else 0.0}


if __name__ == "__main__":
    main()
