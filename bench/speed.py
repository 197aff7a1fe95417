"""How long does one training step take, beside the same float network and beside plain Brevitas?

Networks take turns in one process, W4A4, one forward, backward and SGD step on one batch each:

    float       the same network in plain PyTorch layers, in the same precision
    ours        as unlearning runs it: quantizer steps frozen
    learned     as training runs it: quantizer steps learned too
    brevitas    Brevitas' own layers and quantizers in float32, as they come; steps learned

Each turn begins with a step that is not timed, which gets its memory back; all but `brevitas` keep it
between steps, as runs do. Ratios are what counts. On a machine that others use too, `--clock cpu --threads 1`
counts the processor's time, which waiting does not add to.

    python bench/speed.py [--device cpu] [--width 1.0] [--batch 128] [--repeats 15] [--threads 2]

What a step costs beside arithmetic is what is left when there is next to nothing to compute:

    python bench/speed.py --name overhead --width 0.03125 --batch 2 --size 8 --threads 1 --repeats 50
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from brevitas.core.quant import IntQuant
from shared.record import float_twin, summary, write
from torch import nn

from qmu_edge.io.progress import Progress
from qmu_edge.models import quant_layers
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate
from qmu_edge.models.kernels.fused import FusedIntQuant
from qmu_edge.models.kernels.native import native
from qmu_edge.models.layers import Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.train.loop import Descent, Optimization

KINDS = ("float", "ours", "learned", "brevitas")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LONG = 10_000  # steps: a run for which quantizers are compiled
STOCK: dict[type, type] = {
    FusedIntQuant: type("StockIntQuant", (FusedIntQuant,), {"forward": IntQuant.forward}),
    quant_layers.QuantConv2d: qnn.QuantConv2d,
    quant_layers.QuantLinear: qnn.QuantLinear,
    quant_layers.QuantReLU: qnn.QuantReLU,
    quant_layers.QuantIdentity: qnn.QuantIdentity,
}


def stock(model: nn.Module) -> nn.Module:
    """The same network as Brevitas alone would run it, in place."""
    for module in model.modules():
        module.__class__ = STOCK.get(type(module), type(module))
    return model


def step_of(
    kind: str, architecture: str, precision: str, images: torch.Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """One forward, backward and SGD step of a kind of network."""
    recipe = ModelRecipe.model_validate({"architecture": architecture, "width": options.width})
    model: nn.Module = build(recipe, Shape(channels=3, classes=10), 0).to(images.device)
    if kind == "brevitas":
        precision = "float32"
    else:
        images = images.to(memory_format=torch.channels_last)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibrate(model, [images])
    model = {"float": float_twin, "brevitas": stock}.get(kind, lambda m: m)(model).to(images.device)
    learned = 0.1 if kind in ("learned", "brevitas") else 0.0
    settings = Optimization(
        epochs=1, lr=1e-3, momentum=0.9, weight_decay=5e-4, scale_lr=learned, precision=precision
    )
    descent = Descent(model.train(), settings, LONG, Progress())
    labels = torch.arange(len(images), device=images.device) % 10

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(batch), labels)

    return lambda: descent.step(loss, images)


def turns(
    steps: dict[str, Callable[[], None]], device: torch.device, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of a step of each kind, which take turns; each turn begins with a step that is not timed."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(repeats):
        for kind, step in steps.items():
            with nullcontext() if kind == "brevitas" else kept_memory(device):
                _finished(step, device)
                start = clock()
                _finished(step, device)
                seconds[kind].append(clock() - start)
    return seconds


def _finished(step: Callable[[], None], device: torch.device) -> None:
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Time ResNet18 and MobileNetV2 in bfloat16 and float32; write bench/results/<name>-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="Pixels along a side of an image.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--name", default="speed", help="Of the result.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = torch.rand(options.batch, 3, options.size, options.size, device=device)
    results: dict[str, Any] = {}
    for architecture in ("resnet18", "mobilenet_v2"):
        for precision in ("bfloat16", "float32"):
            work = {kind: step_of(kind, architecture, precision, images, options) for kind in KINDS}
            rows = summary(turns(work, device, options.repeats, CLOCKS[options.clock]), "float")
            results[f"{architecture} {precision}"] = rows
            print(architecture, precision, {k: round(v["ratio"], 2) for k, v in rows.items()}, flush=True)
    settings = {k: v for k, v in vars(options).items() if k != "name"} | {
        "machine_code": native() is not None
    }
    print(write(f"{options.name}-{options.device}", settings, results))


if __name__ == "__main__":
    main()
