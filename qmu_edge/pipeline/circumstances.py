"""What decides the bits of a training beside recipe, seed and versions: kind of machine, threads, kernels."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from qmu_edge.models.kernels.native import native
from qmu_edge.runtime.device import gpu_name
from qmu_edge.runtime.parallel import processes

PROCESSOR: Final = Path("/proc/cpuinfo")
IDENTITY: Final = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")  # x86, then ARM

Circumstances = Mapping[str, str | int]


def circumstances(device: torch.device) -> Circumstances | None:
    """Those of a run with --deterministic, in words and numbers; None of any other run.

    The same circumstances give the same bits. They name a kind of machine, never one machine.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return None
    return {
        "machine": _word(platform.machine()), "processor": _word(_processor()),
        "instructions": _word(_instructions()), "threads": torch.get_num_threads(),
        "processes": processes(), "device": _word((gpu_name() or "gpu") if device.type == "cuda" else "cpu"),
        "kernels": "compiled" if device.type == "cpu" and native() is not None else "other",
    }  # fmt: skip


def _processor() -> str:
    """Vendor, family and model; "" where the system does not tell."""
    try:
        first = PROCESSOR.read_text("utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return ""
    known = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in first.splitlines())}
    return " ".join(known[name] for name in IDENTITY if name in known)


def _instructions() -> str:
    """What PyTorch's kernels are chosen by."""
    features = {
        "VNNI": torch.cpu._is_vnni_supported(), "BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }  # fmt: skip
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(n for n, there in features.items() if there)])


def _word(text: str) -> str:
    """Text as one word of a receipt.

    >>> _word("AuthenticAMD 25 17"), _word("")
    ('AuthenticAMD-25-17', 'unknown')
    """
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.+_")[:64] or "unknown"
