"""How much memory does a training step need at its peak: in a float network, in ours, in Brevitas' layers?

Each network in a process of its own, three steps on one batch. On a processor it is the most that the process
ever held, less what it held before there was a network; on a GPU the most in tensors.

    python bench/memory.py [--device cpu] [--width 1.0] [--batch 128] [--threads 2]
"""

import argparse
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import torch
from shared.record import write
from speed import KINDS, step_of

from qmu_edge.runtime.malloc import kept_memory


def held(field: str) -> float:
    """MiB of this process: VmRSS is now, VmHWM the most."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak(kind: str, architecture: str, options: argparse.Namespace) -> float:
    """MiB of a few steps of a kind of network, here."""
    device, before = torch.device(options.device), held("VmRSS")
    images = torch.rand(options.batch, 3, 32, 32, device=device)
    with nullcontext() if kind == "brevitas" else kept_memory(device):
        step = step_of(kind, architecture, "bfloat16", images, options)
        for _ in range(3):
            step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return held("VmHWM") - before


def main() -> None:
    """All kinds of both networks; write bench/results/memory-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        kind, architecture = options.one
        print(peak(kind, architecture, options))
        return
    results: dict[str, Any] = {}
    for architecture in ("resnet18", "mobilenet_v2"):
        results[architecture] = {}
        for kind in KINDS:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--one", kind, architecture],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            results[architecture][kind] = float(done.stdout.split()[-1])
            print(architecture, kind, f"{results[architecture][kind]:.0f} MiB", flush=True)
    settings = {k: v for k, v in vars(options).items() if k != "one"}
    print(write(f"memory-{options.device}", settings, results))


if __name__ == "__main__":
    main()
