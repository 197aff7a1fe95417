"""Would several networks train faster stacked into one than one after another? An upper bound: float ones.

The gradients of k networks on k batches, one network after another, and all at once by `torch.func.vmap`,
which turns their convolutions into grouped ones. Quantizers are left out: they would need rules for it, worth
writing only where the convolutions win. The processes of `together.py` are the other way.

    python bench/stacked.py [--device cuda] [--networks 4] [--width 0.25] [--batch 64]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from shared.record import float_twin, interleaved, summary, write
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap

from qmu_edge.models.build import ARCHITECTURES, build
from qmu_edge.models.layers import Shape
from qmu_edge.recipe import ModelRecipe


def networks(options: argparse.Namespace, architecture: str) -> list[nn.Module]:
    """Float networks; batch-norm without running statistics, which vmap cannot write."""
    recipe = ModelRecipe.model_validate({"architecture": architecture, "width": options.width})
    made = [build(recipe, Shape(channels=3, classes=10), seed) for seed in range(options.networks)]
    plain = [replace_all_batch_norm_modules_(float_twin(model)) for model in made]
    for model in plain:
        model.to(options.device, options.dtype).train()
    return plain


def ways(models: list[nn.Module], images: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    """Gradients of all networks; `images` (k, n, c, h, w) and `labels` (k, n), a batch for each."""

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(models[0], (parameters, buffers), (x,)), y)

    def after_another() -> list[tuple[Tensor, ...]]:
        return [
            torch.autograd.grad(F.cross_entropy(m(x), y), list(m.parameters()))
            for m, x, y in zip(models, images, labels, strict=True)
        ]

    parameters, buffers = stack_module_state(models)
    all_at_once = vmap(grad(loss), randomness="different")

    def stacked() -> dict[str, Tensor]:
        found: dict[str, Tensor] = all_at_once(parameters, buffers, images, labels)
        return found

    return {"one after another": _finished(after_another), "stacked": _finished(stacked)}


def _finished(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        found = work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return found

    return run


def main() -> None:
    """Time both networks; write bench/results/stacked-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.dtype = getattr(torch, options.precision)
    images = torch.rand(options.networks, options.batch, 3, 32, 32, device=options.device).to(options.dtype)
    labels = torch.arange(options.batch, device=options.device).expand(options.networks, -1) % 10
    results = {}
    for architecture in ARCHITECTURES:
        work = ways(networks(options, architecture), images, labels)
        results[architecture] = summary(interleaved(work, repeats=options.repeats), "one after another")
        print(architecture, {k: round(v["ratio"], 2) for k, v in results[architecture].items()}, flush=True)
    del options.dtype
    print(write(f"stacked-{options.device}", vars(options), results))


if __name__ == "__main__":
    main()
