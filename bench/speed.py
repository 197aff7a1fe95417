"""How much does quantization add to one training step? Quantized against the same float network.

Three networks take turns in one process: the float twin (plain PyTorch layers, same weights), the quantized
network with Brevitas' stock quantizer, and ours with the one-pass quantizer. Ratios are what counts.

    python bench/step.py [--width 0.25] [--batch 128] [--repeats 7]
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from brevitas.core.quant import IntQuant
from record import float_twin, interleaved, summary, write
from torch import nn

from qmu_edge.descent import Descent, Optimization
from qmu_edge.models import build
from qmu_edge.models.fused import FusedIntQuant
from qmu_edge.models.layers import Shape
from qmu_edge.models.scales import calibrate
from qmu_edge.progress import Progress
from qmu_edge.recipe import ModelRecipe


def step_of(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str
) -> Callable[[], None]:
    """One forward, backward and SGD step."""
    settings = Optimization(epochs=1, lr=1e-3, scale_lr=0.1, precision=precision)
    descent = Descent(model.train(), settings, 10_000, Progress())
    return lambda: descent.step(lambda: F.cross_entropy(model(images).float(), labels), len(labels))


def stock(model: nn.Module) -> nn.Module:
    """The same network with Brevitas' own quantization in training."""
    for module in model.modules():
        if isinstance(module, FusedIntQuant):
            module.__class__ = type("Stock", (FusedIntQuant,), {"forward": IntQuant.forward})
    return model


def main() -> None:
    """Time ResNet18 and MobileNetV2, W4A4, in float32 and bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.rand(options.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=device)
    results = {}
    for architecture in ("resnet18", "mobilenet_v2"):
        for precision in ("float32", "bfloat16"):
            work = {}
            for kind in ("float", "quantized", "stock"):
                recipe = ModelRecipe.model_validate({"architecture": architecture, "width": options.width})
                model = build(recipe, Shape(channels=3, classes=10), 0).to(device)
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                calibrate(model, [images])
                changed = {"float": float_twin, "stock": stock}.get(kind, lambda m: m)(model)
                work[kind] = step_of(changed.to(device), images, labels, precision)
            seconds = interleaved(work, repeats=options.repeats)
            results[f"{architecture} {precision}"] = summary(seconds, "float")
            print(
                architecture,
                precision,
                {k: round(v["ratio"], 2) for k, v in summary(seconds, "float").items()},
            )
    print(write(f"step-{device.type}", vars(options), results))


if __name__ == "__main__":
    main()
