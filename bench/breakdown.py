"""Where does the time of a training step go: in Brevitas' layers as they come, in ours, in a float network?

By PyTorch's profiler, which is itself a load: shares are what counts. Our quantizers are autograd functions,
Brevitas' own are chains of elementwise operations.

    python bench/breakdown.py [--device cuda] [--architecture resnet18] [--width 1.0] [--batch 128]
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from shared.record import write
from speed import step_of
from torch.profiler import profile

from qmu_edge.runtime.malloc import kept_memory

# What an operation's name contains, in this order; what is none of them is "all else".
GROUPS = {
    "quantizers": ("FakeQuantize", "IntegerConvolution"),  # the second by itself only writes codes
    "convolutions": ("convolution", "qconv", "linear", "addmm", "aten::mm"),
    "batch-norm": ("batch_norm",),
    "optimizer": ("_fused_",),
    "copies": ("copy_", "clone", "aten::fill_", "aten::zero_"),
    "elementwise": ("aten::",),
}
STEPS = 5


def group_of(name: str) -> str:
    """The group of an operation.

    >>> group_of("aten::mkldnn_convolution"), group_of("aten::round"), group_of("Optimizer.step#SGD.step")
    ('convolutions', 'elementwise', 'all else')
    """
    return next((g for g, words in GROUPS.items() if any(w in name for w in words)), "all else")


def milliseconds(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Of each group in one step, the largest first."""
    spent: Counter[str] = Counter()
    with kept_memory(device):
        for _ in range(3):
            step()
        with profile() as recorded:
            for _ in range(STEPS):
                step()
    for event in recorded.key_averages():
        if event.device_type.name == "CPU":  # kernels are told by what has started them
            own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            spent[group_of(event.key)] += own / 1e3 / STEPS
    return dict(spent.most_common())


def main() -> None:
    """All kinds of networks; write bench/results/breakdown-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = torch.rand(options.batch, 3, 32, 32, device=device)
    results: dict[str, Any] = {}
    for kind, precision in (("brevitas", "float32"), ("learned", "bfloat16"), ("float", "bfloat16")):
        found = milliseconds(step_of(kind, options.architecture, precision, images, options), device)
        results[f"{kind} {precision}"] = found
        whole = sum(found.values())
        print(kind, {g: f"{ms:.0f} ms {ms / whole:.0%}" for g, ms in found.items()}, flush=True)
    print(write(f"breakdown-{options.device}", vars(options), results))


if __name__ == "__main__":
    main()
