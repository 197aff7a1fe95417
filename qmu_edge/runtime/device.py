"""The device to compute on."""

import torch
from torch import Tensor

from qmu_edge.errors import ConfigError


def gpu_name() -> str | None:
    """Name of the GPU that PyTorch can use; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def device_named(name: str) -> torch.device:
    """The device to compute on: "auto" takes the GPU when there is one.

    Raises:
        ConfigError: Another name, or "cuda" without a GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device cuda: this machine has no usable NVIDIA GPU; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to the device, on a GPU without synchronisation."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
