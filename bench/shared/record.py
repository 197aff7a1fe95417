"""What the bench scripts share: interleaved timing, the float twin of a network, and result files."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import brevitas.nn as qnn
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]


def interleaved(
    work: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each piece of work, taking turns, so that noise of the machine hits all alike."""
    for run in work.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def summary(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median, mean and deviation in milliseconds, and each median relative to that of `base`."""
    reference = median(seconds[base])
    return {
        name: {
            "median_ms": 1e3 * median(values),
            "mean_ms": 1e3 * mean(values),
            "deviation_ms": 1e3 * stdev(values),
            "ratio": median(values) / reference,
        }
        for name, values in seconds.items()
    }


def float_twin(model: nn.Module) -> nn.Module:
    """Replace every Brevitas layer by the plain PyTorch layer with the same weights, in place."""
    for name, child in model.named_children():
        setattr(model, name, _plain(child))
    return model


def _plain(layer: nn.Module) -> nn.Module:
    if isinstance(layer, qnn.QuantConv2d):
        keys = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
        plain: nn.Module = nn.Conv2d(**{k: getattr(layer, k) for k in keys}, bias=layer.bias is not None)
    elif isinstance(layer, qnn.QuantLinear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    elif isinstance(layer, qnn.QuantReLU):
        return nn.ReLU()
    elif isinstance(layer, qnn.QuantIdentity):
        return nn.Identity()
    else:
        return float_twin(layer)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in ("weight", "bias")})
    return plain


def write(name: str, settings: Mapping[str, Any], results: Any) -> Path:
    """Store results with the machine and commit that made them, as bench/results/<name>.json."""
    document = {"machine": machine(), "commit": commit(), "settings": dict(settings), "results": results}
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
    return path


def machine() -> dict[str, Any]:
    """Processor, GPU and versions; no host name, no path."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """Commit of the checkout, with "+" when files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
